"""Ranges of numbers in a configuration: beyond them a program would run for hours or out of memory."""

from fnmatch import fnmatchcase

LARGEST = 2**31 - 1  # for every key that is not listed

LIMITS = {
    "seed": (0, 2**62),
    "*.seed": (0, 2**62),
    "n": (1, 1_000_000),
    "steps": (1, 100_000),
    "trajectory_columns": (1, 1000),
    "animation.frames": (1, 10_000),
    "guidance.recurrence": (1, 1000),
    "guidance.*.smoothing": (0, 1000),
    "guidance.clip.cutouts": (0, 1000),
    "guidance.reference.size": (1, 4096),
    "task.frames": (1, 10_000),
    "task.columns": (1, 1000),
    "task.corrections": (0, 1000),
    "task.resamplings": (1, 1000),
    "data.n": (-LARGEST, 100_000_000),
    "data.num_workers": (0, 256),
    "data.image_size": (-LARGEST, LARGEST),
    "model.image_size": (-LARGEST, 4096),
    "model.block_out_channels": (1, 16_384),
    "model.layers_per_block": (1, 64),
    "model.num_train_timesteps": (2, 100_000),
    "adapter.rank": (1, 16_384),
    "condition.*.dim": (1, 16_384),
    "condition.text.layers": (1, 64),
    "condition.text.heads": (1, 1024),
    "condition.dropout": (0, 1),
    "condition.lr_multiplier": (0, 1e6),
    "noise_offset": (0, 100),
    "optimizer.lr": (-LARGEST, 1000),
    "lr_schedule.warmup_steps": (0, LARGEST),
    "trainer.max_steps": (-1, LARGEST),
    "trainer.max_epochs": (-1, LARGEST),
    "trainer.devices": (-1, 1024),
    "trainer.num_nodes": (1, 10_000),
    "callbacks.*.every_n_train_steps": (1, LARGEST),
    "callbacks.clock.warmup_steps": (0, LARGEST),
    "callbacks.curves.smoothing": (0, 0.999999),
    "callbacks.evaluate.n": (0, 1_000_000),
    "callbacks.evaluate.n_nearest": (1, 64),
    "task.n_nearest": (1, 64),
    "*features.size": (8, 2048),
    "callbacks.validation.timesteps": (1, 1000),
    "callbacks.samples.n": (1, 1000),
    "callbacks.samples.rows": (1, 1000),
    "callbacks.samples.steps": (1, 100_000),
    "callbacks.progress.lines": (0, LARGEST),
    "profiling.*": (0, 10_000),
}


def limits(key: str) -> tuple[float, float]:
    """(least, most) of the numbers that a key takes."""
    return next((ends for pattern, ends in LIMITS.items() if fnmatchcase(key, pattern)), (-LARGEST, LARGEST))


def range_of(key: str) -> str:
    """The range of a key's numbers in words."""
    least, most = limits(key)
    if least <= -LARGEST:
        return f"at most {most}"
    return f"from {least} to {most}"
