"""Every option of conf/ composes, and every target in it can be built from its keys."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from conftest import CONF, REPOSITORY, TINY_MODEL, real_data, tiny_clip
from diffusers import DDPMScheduler
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from chrysalis.command import recipes, values
from chrysalis.conditions.conditioner import Conditioner
from chrysalis.denoiser import Denoiser
from chrysalis.models import folder, location, scratch

LEAVES = sorted(
    (p.parent.name, p.stem) for p in CONF.rglob("*.yaml") if p.parent.parent == CONF and p.parent.name != "hydra"
)
SWEEPS = {
    path.stem: params
    for path in sorted((CONF / "experiment").glob("*.yaml"))
    if (params := OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params"))
}


def needs(group, leaf, image_folder, tmp_path):
    if (group, leaf) == ("data", "folder"):
        return [f"data.path={image_folder}"]
    if (group, leaf) == ("data", "hub"):
        from datasets import Dataset, Features, Image

        images = [str(p) for p in sorted(Path(image_folder).rglob("*.png"))]
        Dataset.from_dict({"image": images}, features=Features(image=Image())).save_to_disk(tmp_path / "hub")
        return [f"data.path={tmp_path / 'hub'}"]
    if (group, leaf) == ("features", "inception"):
        return ["features.weights=weights.pth"]
    if group in ("task", "guidance"):
        return needs_of_sampling(leaf, image_folder, tmp_path)
    return []


def needs_of_sampling(leaf, image_folder, tmp_path):
    """Overrides for the files that a task or a guidance needs."""
    from PIL import Image

    image = next(Path(image_folder).rglob("*.png"))
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (4, 4, 12, 12))
    mask.save(tmp_path / "mask.png")
    code = tmp_path / "own.py"
    code.write_text(
        "def loss(x0, t, cond):\n    return x0.mean((1, 2, 3))\ndef logits(x, t):\n    return x[:, :, 0, 0]\n"
    )
    if leaf == "clip":
        return [f"guidance.clip.model={tiny_clip(tmp_path / 'clip')}", "guidance.clip.text=red"]
    return {
        "silhouette": [f"guidance.silhouette.mask={tmp_path / 'mask.png'}"],
        "reference": [f"guidance.reference.image={image}"],
        "custom": [f"guidance.function={code}:loss"],
        "classifier": [f"guidance.classifier.model={code}:logits", "guidance.classifier.label=1"],
        "autoguidance": [f"guidance.autoguidance.checkpoint={tmp_path / 'model'}"],
        "domain": [f"guidance.domain.base={tmp_path / 'model'}"],
        "blend": [f"task.base={tmp_path / 'model'}"],
        "img2img": [f"task.image={image}"],
        "invert": [f"task.image={image}"],
        "evaluate": ["data=butterflies", f"features.pretrained={tmp_path / 'model'}"],
        "inpaint": [f"task.image={image}", f"task.mask={tmp_path / 'mask.png'}"],
    }.get(leaf, [])


@pytest.mark.parametrize(("group", "leaf"), LEAVES)
def test_every_leaf_composes_and_instantiates(composed, group, leaf, model_folder, image_folder, tmp_path):
    program = "sample" if group in ("scheduler", "task", "guidance") else "train"
    extra = needs(group, leaf, image_folder, tmp_path)
    if group == "callbacks" and leaf != "default":
        extra = []
        cfg = composed(program, f"callbacks=[{leaf}]")
    else:
        cfg = composed(program, *([f"{group}={leaf}"]), *extra)
    if group == "model" and leaf in ("moths", "untrained"):
        assert location.locate(cfg.model.pretrained, "").is_dir()
    node = cfg if group == "experiment" else cfg[group]
    if group == "model" and (leaf == "pretrained" or leaf.startswith("domain_")):
        node.pretrained = str(model_folder)
    OmegaConf.resolve(node)
    if group == "callbacks":
        assert all(instantiate(callback) is not None for callback in node.values())
    elif group == "experiment":
        assert instantiate(cfg.trainer)(callbacks=[], logger=False) is not None
    elif group == "trainer":
        assert instantiate(node)(callbacks=[], logger=False).max_steps == cfg.trainer.max_steps
    elif group == "export":
        assert instantiate(node)(command="", settings={}, started=0.0, origin=None).half == node.half
    elif group == "guidance":
        (term,) = recipes.terms(node).values()
        model = folder.load(str(model_folder))
        model.conditioner = Conditioner({"label": {"names": ["ant"]}}, 32) if leaf == "cfg" else None
        built = recipes.built(term, model)
        assert built.scale == term.scale
        assert not built.through_unet or term["at"] == "x_t"
    elif group == "condition":
        assert list(recipes.terms(node)) == ([] if leaf == "none" else [leaf])
        assert all(instantiate(part).settings for part in recipes.terms(node).values())
    elif (group, leaf) == ("adapter", "none"):
        assert instantiate(node) is None
    elif group == "task":
        assert recipes.built(node, folder.load(str(model_folder))).specs(0, 2)
    elif (group, leaf) == ("scheduler", "other"):
        node.name = "KDPM2AncestralDiscreteScheduler"
        assert type(instantiate(node)(DDPMScheduler())).__name__ == node.name
    elif group == "scheduler":
        assert instantiate(node)(DDPMScheduler()).config.num_train_timesteps == 1000
    else:
        assert instantiate(node) is not None


def missing(cfg, prefix=""):
    for key in cfg:
        if OmegaConf.is_missing(cfg, key):
            yield prefix + key
        elif OmegaConf.is_dict(node := cfg._get_node(key)) and not node._is_none():
            yield from missing(node, f"{prefix}{key}.")


def filled(cfg):
    for key in missing(cfg):
        OmegaConf.update(cfg, key, "something")
    return cfg


@pytest.mark.parametrize(("group", "leaf"), LEAVES)
def test_every_leaf_passes_the_check_of_values(composed, group, leaf):
    program = "sample" if group in ("scheduler", "task", "guidance") else "train"
    choice = f"{group}=[{leaf}]" if group == "callbacks" and leaf != "default" else f"{group}={leaf}"
    label = ["guidance.classifier.label=1"] if leaf == "classifier" else []
    values.require(filled(composed(program, choice, *label)))


README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python (train|sample)\.py ([^#\n]*)", README, re.MULTILINE)


@pytest.mark.parametrize(("program", "words"), COMMANDS)
def test_the_commands_of_the_readme_pass_the_check_of_values(composed, program, words):
    typed = [w for w in shlex.split(words) if "=" in w and not w.startswith(("-", "from=", "resume=", "hydra"))]
    values.require(
        filled(
            composed(program, *(re.sub(r"=([^\[\s]+?),.*", r"=\1", w) if " -m " in f" {words}" else w for w in typed))
        )
    )


@pytest.mark.parametrize("name", SWEEPS)
def test_every_job_of_a_shipped_sweep_passes_and_differs(composed, name):
    swept = OverridesParser.create().parse_overrides([f"{key}={those}" for key, those in SWEEPS[name].items()])
    jobs = list(itertools.product(*(override.sweep_string_iterator() for override in swept)))
    assert len(jobs) >= (3 if name == "pretrain_domains" else 6)  # it has one job for each domain
    settings = set()
    for job in jobs:
        overrides = [f"{o.key_or_group}={value}" for o, value in zip(swept, job, strict=True)]
        cfg = composed("train", f"experiment={name}", *overrides)
        values.require(cfg)
        settings.add(OmegaConf.to_yaml(cfg))
    assert len(settings) == len(jobs)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_lr_schedules_count_optimizer_steps(composed, name):
    """Warm-up, then constant or decay, against the closed forms."""
    import math

    import torch

    cfg = composed("train", f"lr_schedule={name}", "lr_schedule.warmup_steps=4", "optimizer.lr=1.0")
    optimizer = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule = instantiate(cfg.lr_schedule)(optimizer, total_steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    after = {
        "constant": lambda s: 1.0,
        "cosine": lambda s: 0.5 * (1 + math.cos(math.pi * (s - 4) / 16)),
        "linear": lambda s: 1 - (s - 4) / 16,
    }[name]
    assert rates == pytest.approx([s / 4 if s < 4 else after(s) for s in range(20)])


def test_smithsonian_is_the_tutorials_recipe(composed):
    cfg = composed("train", "experiment=smithsonian")
    assert cfg.model.pretrained == "google/ddpm-celebahq-256"
    assert cfg.data.path == "huggan/smithsonian_butterflies_subset"
    assert (cfg.data.image_size, cfg.data.batch_size, cfg.trainer.accumulate_grad_batches) == (256, 4, 2)
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs, cfg.trainer.max_steps) == (1e-5, 2, -1)
    assert (cfg.callbacks.samples.scheduler, cfg.callbacks.samples.steps) == ("ddim", 40)


@pytest.mark.skipif(not (real_data() / "hub_like").is_dir(), reason="the optional photographs are not here")
def test_the_smithsonian_recipe_runs_on_a_dataset_of_its_form(run, tmp_path):
    """The same recipe, small: a flat celebahq-like folder, and 200 photographs with the hub dataset's columns."""
    from conftest import TINY_RUN, results, tiny_unet
    from tiny_models import CELEBAHQ

    folder_ = tmp_path / "flat"
    tiny_unet(**CELEBAHQ).save_pretrained(folder_)
    scratch.build(32, (8, 8)).scheduler.save_pretrained(folder_)
    small = [o for o in TINY_RUN if "max_steps" not in o]
    places = [f"data.path={real_data() / 'hub_like'}", f"model.pretrained={folder_}", "data.image_size=32"]
    limits = ["data.batch_size=16", "trainer.max_epochs=2", "name=small"]
    assert run("train", "experiment=smithsonian", *small, *places, *limits) == 0
    assert (
        results(tmp_path / "runs" / "small")["steps"] == 2 * 6
    )  # 182 images / 16 = 12 micro-batches, accumulated by 2


def test_a_new_model_is_trained_with_the_chosen_objective(composed):
    cfg = composed("train", *TINY_MODEL, "objective=v")
    model = instantiate(cfg.model)
    objective = instantiate(cfg.objective)(model.prediction)
    model.register_objective(objective)
    denoiser = Denoiser(model.unet, model.scheduler, objective)
    assert denoiser.scheduler.config.prediction_type == "v_prediction"
