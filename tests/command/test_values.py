"""The check of all values before anything is built: valid ones pass, others are named by their key."""

import inspect
from typing import get_args

import pytest
from lightning import Trainer
from lightning.fabric.plugins.precision import precision

from chrysalis.command import value_types, values
from chrysalis.system import hardware
from chrysalis.system.errors import UserError

TRAIN = {
    "optimizer.lr=x": "optimizer.lr=x must be a number above 0 and at most 1000; the default is 0.001.",
    "optimizer.lr=nan": "optimizer.lr=nan must be a number",
    "optimizer.lr=true": "optimizer.lr=true must be a number",
    "optimizer.lr=null": "optimizer.lr=null must be a number",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9] must be a list of 2 numbers of at least 0 and below 1;",
    "optimizer.betas=[0.9,x]": "optimizer.betas=[0.9,x] must be",
    "data.on_device=perhaps": "data.on_device=perhaps must be true or false or null.",
    "data.flip=1": "data.flip=1 must be true or false; the default is true.",
    "data.n=2.5": "data.n=2.5 must be a whole number from 2 to 100000000; the default is 1000.",
    "data.n=true": "data.n=true must be a whole number",
    "data.n=1000000000": "data.n=1000000000 must be a whole number from 2 to 100000000; the default is 1000.",
    "data.domain=7": "data.domain=7 must be a string",
    "callbacks.clock.warmup_steps=x": "callbacks.clock.warmup_steps=x must be a whole number from 0 to 2147483647;",
    "callbacks.samples.n=1000000000": "callbacks.samples.n=1000000000 must be a whole number from 1 to 1000;",
    "callbacks.ema=3": "callbacks.ema=3 cannot be used",
    "callbacks.clock=null": "callbacks.clock=null cannot be used: leave it out",
    "profile=perhaps": "profile=perhaps must be true or false; the default is false.",
    "profile=1": "profile=1 must be true or false",
    "compile=maybe": "compile=maybe must be true or false, default, reduce-overhead",
    "channels_last=x": "channels_last=x must be true or false or auto; the default is auto.",
    "preflight=x": "preflight=x must be true or false or only; the default is true.",
    "on_nonfinite=go": "on_nonfinite=go must be stop or skip; the default is stop.",
    "seed=1.5": "seed=1.5 must be a whole number from 0 to 4294967295; the default is 0.",
    "resume=5": "resume=5 must be true or false, a string or null",
    "condition.dropout=2": "condition.dropout=2 must be a number from 0 to 1; the default is 0.1.",
    "condition.lr_multiplier=x": "condition.lr_multiplier=x must be a number above 0 and at most 1000000; the default",
    "lr_schedule.kind=step": "lr_schedule.kind=step must be constant, cosine or linear; the default is cosine.",
    "lr_schedule.warmup_steps=-1": "lr_schedule.warmup_steps=-1 must be a whole number from 0",
    "trainer.max_steps=many": "trainer.max_steps=many must be a whole number from -1 to 2147483647; the default",
    "trainer.max_steps=1000000000000000000": "trainer.max_steps=1000000000000000000 must be a whole number from -1",
    "trainer.deterministic=never": "trainer.deterministic=never must be true or false, warn or null.",
    "+trainer.enable_checkpointing=x": "trainer.enable_checkpointing=x must be true or false",
    "+trainer.enable_checkpointing=false": "trainer.enable_checkpointing is not used here: leave it out; callbacks",
    "+trainer.val_check_interval=2": "trainer.val_check_interval is not used here: leave it out; callbacks.val",
    "+trainer.num_sanity_val_steps=0": "trainer.num_sanity_val_steps is not used here: leave it out; callbacks",
    "+trainer.nonsense=1": "trainer.nonsense is not a setting of chrysalis.training.trainer.make_trainer: choose",
    "data.vector_columns=[1]": "data.vector_columns=[1] must be a list of strings",
    "name=a/b": "name=a/b cannot be a folder's name",
    "name=..": "name=.. cannot be a folder's name",
    "name=": "name= cannot be a folder's name",
    "name=null": "name=null cannot be a folder's name",
    "optimizer._target_=os.system": "optimizer._target_=os.system cannot be used: name a class of chrysalis",
    "optimizer._target_=chrysalis.system.files.os.remove": "optimizer._target_=chrysalis.system.files",
    "optimizer._target_=torch.optim.Nope": "optimizer._target_=torch.optim.Nope does not exist",
    "optimizer._target_=torch.optim.SGD": "optimizer.betas is not a setting of torch.optim.SGD: choose from params,",
    "optimizer._target_=5": "optimizer._target_=5 cannot be used",
    "+trainer.plugins=[{_target_:subprocess.run}]": "trainer.plugins[0]._target_=subprocess.run cannot be used",
    "optimizer._partial_=false": "optimizer._partial_=false cannot be used",
    "+data._partial_=true": "data._partial_=true cannot be used",
    "+data._args_=[1]": "data._args_ cannot be given",
    "profiling=null": "profiling=null cannot be used",
}
SAMPLE = {
    "n=x": "n=x must be a whole number from 1 to 1000000; the default is 8.",
    "n=1000000000": "n=1000000000 must be a whole number from 1 to 1000000; the default is 8.",
    "steps=1000000000": "steps=1000000000 must be a whole number from 1 to 100000; the default is 20.",
    "image_size=[1,2,3]": "image_size=[1,2,3] must be a whole number from 8 to 4096, a list of 2 whole numbers from 8",
    "trajectory=2": "trajectory=2 must be true or false",
    "animation.frames=x": "animation.frames=x must be a whole number from 2 to 10000; the default is 60.",
    "animation=null": "animation=null cannot be used",
    "trainer.devices=[0]": "trainer.devices=[0] must be a whole number from -1 to 1024 or auto; the default is 1.",
    "scheduler._target_=builtins.eval": "scheduler._target_=builtins.eval cannot be used",
    "guidance=null": "guidance",
    "only=3": "only=3 must be a string or null",
}
RANGES = {
    "train": [
        "adapter=lora adapter.rank=0",
        "adapter=lora adapter.rank=2.5",
        "adapter=lora adapter.alpha=0",
        "adapter=lora adapter.alpha=big",
        "adapter=lora adapter.dropout=1.0",
        "adapter=lora adapter.dropout=-0.1",
        "adapter=lora adapter.targets=5",
        "adapter=lora adapter.targets=[1]",
        "adapter=lora adapter.merge=no",
        "profile=true profiling.steps=0",
        "profile=true profiling.wait=-1",
        "profile=true profiling.warmup=0",
        "features.timestep=2",
        "features.levels=0",
        "features.size=4",
        "optimizer.lr=0",
        "optimizer.betas=[0.9,1.5]",
        "optimizer.eps=-1",
        "optimizer=adamw8bit optimizer.lr=0",
        "optimizer=muon optimizer.momentum=1",
        "optimizer.weight_decay=-1",
        "model.gradient_checkpointing=often",
        "model=scratch model.layers_per_block=0",
        "model=scratch model.num_train_timesteps=1",
        "weighting=min_snr weighting.snr_gamma=0",
        "noise_offset=-1",
        "noise_offset=101",
        "condition.lr_multiplier=1000001",
        "condition=text condition.text.heads=1025",
        "adapter=lora adapter.alpha=3000000000",
        "adapter=lora adapter.alpha=.inf",
        "weighting=min_snr weighting.snr_gamma=3000000000",
        "trainer.num_nodes=10001",
        "features.size=2049",
        "callbacks.samples.steps=100001",
        "callbacks.evaluate.n=1000001",
        "callbacks=early_stopping callbacks.early_stopping.min_delta=11",
        "profile=true profiling.wait=10001",
        "profile=true profiling.warmup=10001",
        "profile=true profiling.steps=10001",
        "condition=label condition.label.dim=0",
        "condition=image condition.image.source=blurred",
        "data.val_fraction=1",
        "data.batch_size=0",
        "data.num_workers=-1",
        "data.resize=squeeze",
        "data.image_size=0",
        "data.image_size=[64]",
        "data.image_size=[64,0]",
        "data.n=1",
        "callbacks.ema.decay=1",
        "callbacks.evaluate.steps=0",
        "callbacks.evaluate.batch_size=0",
        "callbacks.evaluate.budget=0",
        "callbacks.validation.n_images=0",
        "callbacks.best.monitor=loss",
        "callbacks.nonfinite.max_skipped_steps=-1",
        "callbacks=early_stopping callbacks.early_stopping.patience=0",
        "callbacks=early_stopping callbacks.early_stopping.min_delta=-1",
        "trainer.accumulate_grad_batches=0",
        "trainer.log_every_n_steps=0",
    ],
    "sample": [
        "trajectory_columns=1",
        "animation.seconds=0",
        "animation.formats=[avi]",
        "scheduler=ddim scheduler.eta=3",
        "task=img2img task.image=a.png task.strength=0",
        "task=img2img task.image=a.png task.strength=1.5",
        "task=img2img task.image=a.png task.strength=true",
        "task=inpaint task.image=a.png task.mask=b.png task.jump=0",
        "task=invert task.image=a.png task.corrections=-1",
        "task=invert task.image=a.png task.corrections=1001",
        "guidance=clip guidance.clip.cutouts=1001",
        "guidance=reference guidance.reference.image=a.png guidance.reference.size=4097",
        "guidance=symmetry guidance.symmetry.largest_change=3000000000",
        "task=morph task.frames=1",
        "task=blend task.ratios=0.5",
        "task=blend task.ratios=[half]",
        "task=blend task.ratios=[3]",
        "guidance=cfg guidance.cfg.rescale=2",
        "guidance=cfg guidance.cfg.scale=big",
        "guidance=clip guidance.clip.cutouts=-1",
        "guidance=brightness guidance.brightness.target=3",
        "guidance=symmetry guidance.symmetry.at=there",
        "guidance=symmetry guidance.symmetry.schedule=often",
        "guidance=symmetry guidance.symmetry.gradient=big",
        "guidance=symmetry guidance.symmetry.interval=[1]",
        "guidance=symmetry guidance.symmetry.interval=3",
        "guidance=symmetry guidance.symmetry.largest_change=-1",
        "guidance=symmetry guidance.symmetry.smoothing=-1",
    ],
}
FINE = ["trainer.precision=16", "trainer.devices=auto", "data.image_size=[64,32]", "optimizer.lr=1", "compile=true"]
FINE += [
    "compile=reduce-overhead",
    "trainer.max_time=00:01:00:00",
    "+trainer.max_time={hours:1}",
    "model.train=[up,mid]",
]
FINE += [
    "data.batch_size=auto",
    "name=5",
    "name='a moth, blue'",
    "trainer.deterministic=warn",
    "trainer.profiler=simple",
]
FINE += [
    "weighting=uniform",
    "callbacks.ema.decay=0",
    "trainer.gradient_clip_val=null",
    "optimizer.betas=[0,0.9]",
]
FINE += [
    "optimizer._target_=torch.optim.SGD ~optimizer.betas ~optimizer.eps +optimizer.momentum=0.9",
    "preflight=only",
    "resume=true",
]


@pytest.mark.parametrize(("program", "case"), [("train", c) for c in TRAIN] + [("sample", c) for c in SAMPLE])
def test_a_bad_value_is_named_by_its_key(composed, program, case):
    with pytest.raises((UserError, Exception)) as error:
        values.require(composed(program, *(["data=folder", "data.path=here"] if "vector" in case else []), case))
    if case != "guidance=null":  # Hydra's own, for a group
        assert str(error.value).startswith({"train": TRAIN, "sample": SAMPLE}[program][case])
        assert "\n" not in str(error.value)
        assert isinstance(error.value, UserError)


@pytest.mark.parametrize(("program", "case"), [(program, case) for program in RANGES for case in RANGES[program]])
def test_a_number_out_of_its_range_is_named_by_its_key(composed, program, case):
    assignment = case.split()[-1]
    with pytest.raises(UserError) as error:
        values.require(composed(program, *case.split()))
    assert str(error.value).startswith(f"{assignment} must be ")


def test_keys_of_lightning_that_are_not_used_are_its_own():
    assert set(values.NOT_USED) <= set(inspect.signature(Trainer.__init__).parameters)


PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "32-true": "32-true"}
PRECISIONS |= {"16-mixed": "16-mixed", "bf16-mixed": "bf16-mixed"}


def test_every_precision_of_lightning_is_taken_or_refused():
    known = [*get_args(precision._PRECISION_INPUT_STR), *get_args(precision._PRECISION_INPUT_STR_ALIAS)]
    for name in [*known, *get_args(precision._PRECISION_INPUT_INT)]:
        if str(name) in PRECISIONS:
            assert hardware.precision(name, "cuda")[0] == PRECISIONS[str(name)]
        else:
            with pytest.raises(UserError, match=rf"trainer.precision={name} cannot be used: .*: use [\w-]+\.$"):
                hardware.precision(name, "cuda")
    assert hardware.precision(32, "cpu")[0] == "32-true"
    with pytest.raises(UserError, match="On a CPU use bf16-mixed"):
        hardware.precision(16, "cpu")


@pytest.mark.parametrize("case", FINE)
def test_a_valid_value_passes(composed, case):
    values.require(composed("train", *(case.split(" ") if case.startswith("optimizer._") else [case])))


@pytest.mark.parametrize(
    ("value", "hint", "fine"),
    [
        (1, float, True),
        (10**400, float, False),
        (float("inf"), float, False),
        (1.0, int, False),
        (None, int | None, True),
        ("a", list[str], False),
        (["a"], list[str], True),
        ([1], tuple[int, ...], True),
        ([], tuple[int, int], False),
        (3, object, True),
        (3, dict, False),
    ],
)
def test_fits(value, hint, fine):
    assert value_types.fits(value, hint) is fine
