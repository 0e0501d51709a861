"""How much a run measures beside its training: cases counted by hand."""

from dataclasses import replace

from conftest import TINY_MODEL, TINY_RUN, results
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from chrysalis.training.preflight import measuring
from chrysalis.training.preflight.measuring import KEYS, LEAST, Measuring, affordable, budget, changes

DEFAULT = Measuring(images=24, timesteps=8, images_every=150, samples=16, sample_steps=25, samples_every=150)


def test_passes_by_hand():
    """Base, and raw and EMA at steps 150 and 300: five times 192. Grids of the base model, at 150 and at 300."""
    assert DEFAULT.forward_passes(300) == (5 * 24 * 8, 3 * 16 * 25)
    assert DEFAULT.forward_passes(1) == (3 * 24 * 8, 2 * 16 * 25)
    assert DEFAULT.forward_passes(1, conditions=3) == (5 * 24 * 8, 2 * 16 * 25), "EMA under each condition"


def test_the_default_run_measures_all():
    """300 steps of 8 images, three passes each; 39 images/s is 8.5 ms a pass."""
    seconds = 1 / 39 / 3
    assert affordable(DEFAULT, 300, seconds, 300 * 8 * 3 * seconds, set(), 1, other_passes=280) == DEFAULT


def test_the_limit_is_a_sixth_of_the_training_or_45_seconds():
    assert [budget(s) for s in (0, 270, 600)] == [45, 45, 100]
    six = sum(DEFAULT.forward_passes(300))  # 2160 passes: 0.02 s each is 43.2 s, 0.021 s is 45.36 s
    assert six * 0.02 < 45 < six * 0.021
    assert affordable(DEFAULT, 300, 0.02, 0, set(), 1) == DEFAULT
    assert affordable(DEFAULT, 300, 0.021, 0, set(), 1) != DEFAULT
    assert affordable(DEFAULT, 300, 0.021, 6 * 46, set(), 1) == DEFAULT, "46 s of 276"


def test_halves_by_hand():
    """One step at 0.1 s a pass: 576 + 800 passes may be 450.

    Samples cost more, and 16 is 8 times its least where 25 steps are 3: 8 samples are 400 passes. Validation costs
    more, its timesteps are 4 times their least and its images 3: 4 timesteps are 288. Then 4 samples, 200; then
    12 images, 144; and 344 are few enough.
    """
    reduced = affordable(DEFAULT, 1, 0.1, 2.0, set(), 1)
    assert reduced == replace(DEFAULT, samples=4, timesteps=4, images=12)
    assert reduced.forward_passes(1) == (144, 200)


def test_as_coarse_as_may_be_where_even_that_takes_longer():
    reduced = affordable(DEFAULT, 1, 100.0, 2.0, set(), 1)
    assert reduced == replace(DEFAULT, **LEAST)


def test_what_was_pinned_is_kept():
    pinned = {KEYS["images"], KEYS["samples"], KEYS["sample_steps"]}
    reduced = affordable(DEFAULT, 1, 100.0, 2.0, pinned, 1)
    assert reduced == replace(DEFAULT, timesteps=2)
    assert changes(DEFAULT, reduced) == {"callbacks.validation.timesteps": 2}
    assert affordable(DEFAULT, 1, 100.0, 2.0, {*KEYS.values()}, 1) == DEFAULT


def test_a_long_run_is_measured_more_rarely_first():
    reduced = affordable(DEFAULT, 2000, 0.02, 0, set(), 1)
    assert reduced.images_every > 150
    assert reduced.images_every % 150 == 0
    assert reduced.images_every < 2000, "once before the end"


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-4, 10), st.integers(1, 5000), st.integers(1, 16), st.sets(st.sampled_from(sorted(KEYS.values()))))
def test_never_over_the_budget_but_at_the_least(seconds, steps, a_step, pinned):
    training = steps * a_step * 3 * seconds
    reduced = affordable(DEFAULT, steps, seconds, training, pinned, 1)
    for name, key in KEYS.items():
        assert key not in pinned or getattr(reduced, name) == getattr(DEFAULT, name)
    if seconds * sum(reduced.forward_passes(steps)) > budget(training):
        assert all(getattr(reduced, name) == least for name, least in LEAST.items() if KEYS[name] not in pinned)
    if seconds * sum(DEFAULT.forward_passes(steps)) <= budget(training):
        assert reduced == DEFAULT


def test_a_run_keeps_its_plan_when_it_continues(run, tmp_path, monkeypatch):
    """With no time allowed all is as coarse as may be, but for what was typed; with all time, when it continues too."""
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr(measuring, "FRACTION", 0.0)
    typed = ("callbacks.validation", "callbacks.samples.n=", "preflight")
    tiny = [o for o in [*TINY_MODEL, *TINY_RUN] if not o.startswith(typed)]
    tiny += ["callbacks.validation.n_images=3", "data.n=30", "trainer.max_steps=1", "name=a"]
    assert run("train", *tiny) == 0
    coarser = {"callbacks.validation.timesteps": LEAST["timesteps"], "callbacks.samples.n": LEAST["samples"]}
    folder = tmp_path / "runs" / "a"
    assert OmegaConf.load(folder / "config.yaml").measuring == coarser
    assert results(folder)["measuring"] == {"coarser": coarser}
    monkeypatch.setattr(measuring, "SECONDS", 1e9)
    assert run("train", "resume=runs/a", "trainer.max_steps=2") == 0
    found = results(folder)
    assert found["measuring"] == {"coarser": coarser}
    assert found["validation"]["bins"] == LEAST["timesteps"]
    assert len(found["validation"]["loss_by_image"]) == 3, "as it was typed"
