"""Bad inputs: values of every key of a composed configuration, and damaged files, sampled by hypothesis."""

import json
import random
import struct
from functools import partial
from pathlib import Path

from conftest import TINY_MODEL, TINY_RUN, tiny_unet
from forked import REPOSITORY, Case
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

SMALL = (*TINY_MODEL, *TINY_RUN, "trainer.max_steps=2", "preflight=false", "name=run")
DRAWING = ("n=1", "steps=2", "out=drawn", "model.pretrained=model")
BASES = {
    "train": [
        ("data.n=24",),
        ("data.n=24", "adapter=lora", "adapter.targets=[conv1]"),
        ("data.n=24", "condition=[label,vector,mask]"),
        ("data.n=24", "condition=[text]", "condition.text.levels=[1]"),
        ("data=folder", "data.path=images"),
        ("data.n=24", "optimizer=adamw8bit", "lr_schedule=linear", "objective=v"),
        ("data.n=24", "optimizer=muon"),
    ],
    "sample": [
        (),
        ("guidance=[colour,symmetry,brightness]",),
        ("scheduler=euler", "task=img2img", "task.image=images/0.png"),
        ("task=morph", "n=2", "task.frames=2"),
        ("task=invert", "task.image=images/0.png", "trajectory=true", "animation.formats=[gif]"),
        ("guidance=[sharpness,reference]", "guidance.reference.image=images/0.png"),
    ],
}
# valid, and too much for a test: a compilation takes minutes, other processes and devices are not here
LEFT_OUT = {
    "compile": ("true", "default", "null"),
    "trainer.devices": ("1", "2", "3"),
    "trainer.num_nodes": ("1", "2", "3", "1_000"),
    "data.num_workers": ("1", "2", "3"),
    "profile": ("true",),
    "data.image_size": ("1_000",),  # two minutes of drawing
}
ALSO_CALLED = {  # keys that messages call by another name
    "objective.prediction": "objective=",
    "scheduler.name": "scheduler=",
    "callbacks.nonfinite.action": "on_nonfinite=",
}
NUMBERS = """-1 0 1 2 3 -0.5 0.5 1.5 1e400 1e-400 1e38 nan inf -inf 2147483648 1000000000000 9223372036854775808
    1000000000000000000 -1000000000000000000 0x10 1_000 -0""".split()  # noqa: SIM905
WORDS = """null true false yes x perhaps auto only 'null' '' "" 'ä🦋' ../x /dev/null ~ ~nobody-here ${seed}
    ${nothing} ??? a/b/c . .. \\ model images google/nothing %s{}%d""".split()  # noqa: SIM905
WORDS += ["'a b'", "'a\nb'", "'\x07'", "x" * 5000, "1" + "0" * 400]
NESTED = """[] {} [1] [1,2] [x,y] [[1],[2]] {a:1} [null] [1,x,null] [-1,-1] [0,0] [nan,inf] [1e9,1e9]
    {a:{b:[c]}}""".split()  # noqa: SIM905
BROKEN = ["'", '"', "[1", "{a:", "]", "a,b", "(", "$", "${", "[1,,2]", "{a}", "'a\"", "\\'", "=", "a=b", " "]
TARGETS = [
    "os.system",
    "torch.optim.Nope",
    "builtins.eval",
    "chrysalis.nothing",
    "torch",
    "chrysalis.system.files.os.abort",
]


def written(folder: Path, base: Path) -> None:
    """Put a model and images into a folder, as links to those in `base`."""
    for source in sorted(base.rglob("*")):
        target = folder / source.relative_to(base)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.hardlink_to(source)


def made(base: Path) -> Path:
    """Make model/, images/ and few/ in `base`, once."""
    from diffusers import DDPMPipeline, DDPMScheduler

    base.mkdir(parents=True)
    DDPMPipeline(unet=tiny_unet(), scheduler=DDPMScheduler()).save_pretrained(base / "model")
    (base / "images").mkdir()
    (base / "few").mkdir()
    lines = []
    for i in range(24):
        image = Image.effect_noise((20, 20), 60 + i).convert("RGB")
        image.save(base / "images" / f"{i}.png")
        if i < 4:
            image.save(base / "few" / f"{i}.png")
            (base / "images" / f"{i}.txt").write_text(f"image {i}", encoding="utf-8")
            lines.append(json.dumps({"file_name": f"{i}.png", "label": "ab"[i % 2], "text": f"no. {i}", "size": i}))
    (base / "few" / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for suffix in ("jpg", "gif", "webp", "tif"):
        image.save(base / "images" / f"0.{suffix}")
    return base


def keys(program: str, base: tuple[str, ...]) -> list[str]:
    """All keys of a configuration that hold a value, with those of Hydra left out."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        cfg = compose(program, overrides=list(base))
    plain, found = OmegaConf.to_container(cfg, resolve=False), []

    def walk(node: dict, prefix: str) -> None:
        for key, value in node.items():
            found.append(prefix + key)
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(plain, "")
    groups = {p.name for p in (REPOSITORY / "conf").iterdir() if p.is_dir()}
    return [key for key in found if key not in groups | {"run_dir"} and not key.endswith("run_dir")]


def examples(strategy: st.SearchStrategy, n: int, seed: int) -> list:
    """n examples of a strategy, the same for the same seed."""
    found: list = []

    @seeded(seed)
    @settings(max_examples=n, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(example):
        found.append(example)

    collect()
    return found


def configurations(n: int, seed: int, base: Path) -> list[Case]:
    """n commands with one or two keys set to what may well be nonsense."""
    places = [
        (program, base_, key)
        for program, bases in BASES.items()
        for base_ in bases
        for key in keys(program, (*(SMALL if program == "train" else DRAWING), *base_))
    ]
    values = st.one_of(
        st.sampled_from(NUMBERS),
        st.sampled_from(NUMBERS),
        st.sampled_from(WORDS),
        st.sampled_from(NESTED),
        st.sampled_from(BROKEN),
        st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=12),
        st.text(st.characters(exclude_characters="\x00'\\", codec="utf-8"), max_size=12).map(lambda t: f"'{t}'"),
        st.integers(-5, 3).map(str),
    )
    asked = examples(st.tuples(st.sampled_from(places), values, st.sampled_from(TARGETS)), n, seed)
    return [_case(*place, target if place[2].endswith("_target_") else value, base) for place, value, target in asked]


def _case(program: str, chosen: tuple[str, ...], key: str, value: str, base: Path) -> Case:
    if value in LEFT_OUT.get(key, ()):
        value = "x"
    start = SMALL if program == "train" else DRAWING
    names = (key, key.split(".")[-1], "key=value", ALSO_CALLED.get(key, key), "'nothing'")
    return Case(program, (*start, *chosen, f"{key}={value}"), names, partial(written, base=base))


def files(n: int, seed: int, base: Path) -> list[Case]:
    """n commands that read a damaged file: cut short, with bits flipped, filled with something else, or made up."""
    kinds = st.tuples(st.sampled_from(sorted(VICTIMS)), st.sampled_from(DAMAGES), st.integers(0, 2**32))
    return [_damaged(victim, damage, number, base) for victim, damage, number in examples(kinds, n, seed)]


LOOKING = (*SMALL[:-2], "preflight=only", "name=run")
VICTIMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "images/0.png": ("train", (*LOOKING, "data=folder", "data.path=images")),
    "images/0.jpg": ("sample", (*DRAWING, "task=img2img", "task.image=images/0.jpg")),
    "images/0.gif": ("sample", (*DRAWING, "guidance=reference", "guidance.reference.image=images/0.gif")),
    "images/0.webp": ("sample", (*DRAWING, "guidance=colour", "guidance.colour.target=images/0.webp")),
    "images/0.tif": ("sample", (*DRAWING, "task=invert", "task.image=images/0.tif")),
    "few/1.png": ("train", (*LOOKING, "data=folder", "data.path=few", "data.batch_size=2")),
    "few/metadata.jsonl": (
        "train",
        (*LOOKING, "data=folder", "data.path=few", "data.batch_size=2", "data.vector_columns=[size]"),
    ),
    "images/2.txt": ("train", (*LOOKING, "data=folder", "data.path=images")),
    "model/model_index.json": ("sample", DRAWING),
    "model/unet/config.json": ("sample", DRAWING),
    "model/scheduler/scheduler_config.json": ("sample", DRAWING),
    "model/unet/diffusion_pytorch_model.safetensors": (
        "train",
        (*(o for o in LOOKING if not o.startswith("model")), "model.pretrained=model", "data.n=24"),
    ),
}
DAMAGES = ["cut", "cut", "bits", "bits", "bits", "one byte", "zeros", "empty", "text", "header", "numbers"]


def _damaged(victim: str, damage: str, number: int, base: Path) -> Case:
    program, overrides = VICTIMS[victim]

    def prepare(folder: Path) -> None:
        written(folder, base)
        file = folder / victim
        data = hurt(file.read_bytes(), damage, random.Random(number))
        file.unlink()  # a link to the one in `base`
        file.write_bytes(data)

    names = (victim, Path(victim).name, f"{victim.split('/')[0]} ", f"{victim.split('/')[0]}:", overrides[-1])
    names += (f"/{victim.split('/')[0]}/",) if victim.endswith(".jsonl") else ()  # which names others there
    return Case(program, overrides, names, prepare)


def hurt(data: bytes, damage: str, dice: random.Random) -> bytes:
    """The bytes of a file, damaged."""
    if damage == "cut":
        return data[: dice.randrange(len(data))]
    if damage in ("bits", "one byte"):
        changed = bytearray(data)
        for _ in range(1 if damage == "one byte" else dice.randrange(1, 60)):
            at = dice.randrange(min(len(data), dice.choice([64, 512, len(data)])))
            changed[at] = dice.randrange(256) if damage == "one byte" else changed[at] ^ 1 << dice.randrange(8)
        return bytes(changed)
    if damage == "numbers":  # of JSON; elsewhere nothing
        for old in dice.sample([b"1", b"2", b"8", b"0", b"[", b"true", b"null", b'"'], 3):
            data = data.replace(old, dice.choice([b"-1", b"1000000000000", b"1e999", b"{}", b"[]", b"NaN"]), 1)
        return data
    filler = {"zeros": bytes(len(data)), "empty": b"", "text": b"not what the name says\n" * 20}
    return filler.get(damage, struct.pack("<Q", 2**60) + data[8:])
