"""Paired differences of validation losses, and what the verdict makes of them."""

import pytest
import torch
from tiny import losses

from chrysalis.evaluation.validation_loss import paired_difference
from chrysalis.evaluation.verdict import describe_change, verdict


def test_paired_differences_equal_scipys_paired_t_test():
    from scipy.stats import ttest_rel

    a, b = losses(0.5, 0), losses(0.49, 1)
    ours = paired_difference(a, b)
    theirs = ttest_rel(a.mean(1).numpy(), b.mean(1).numpy())
    assert ours.mean / ours.standard_error == pytest.approx(theirs.statistic, rel=1e-4)
    for j in range(4):
        by_timestep = ttest_rel(a[:, j].numpy(), b[:, j].numpy()).statistic
        assert ours.by_timestep[j] / ours.standard_error_by_timestep[j] == pytest.approx(by_timestep, rel=1e-4)


FALLING = "best at step 200, the last one: the validation loss was still falling"


SAME = "no significant change from the base model's validation loss"


FAR = (
    "; samples at the best step still differ from real images: KD 0.28 (95 % CI 0.21 to 0.35), where 0 is no difference"
)


@pytest.mark.parametrize(
    ("means", "best", "memorized", "kd", "sentence"),
    [
        ([1, 0.8, 0.9], 100, 200, None, "best at step 100; after that the validation loss rises and near-duplicates of "
         "training images appear by step 200"),
        ([1, 0.8, 0.6], 200, None, None, FALLING),
        ([1, 0.8, 0.6], 200, None, (0.28, 0.21, 0.35), FALLING + FAR),
        ([1, 0.8, 0.6], 200, None, (0.01, -0.02, 0.04), FALLING),
        ([1, 0.8, 0.8], 100, None, None, "best at step 100; after that the validation loss stays about the same"),
        ([1, 1.0], 100, None, (0.28, 0.21, 0.35), SAME + FAR),
        ([1, 0.8, 0.6], 200, 100, None, f"{FALLING}; near-duplicates of training images appear already by step 100"),
        ([1, 0.8, 0.6], 100, None, None, "best at step 100; after that the validation loss falls"),
        ([1, 1.8], 100, None, None, "validation loss higher than the base model's even at the best step, 100"),
    ],
)  # fmt: skip
def test_the_verdict(means, best, memorized, kd, sentence):
    means = {100 * i: mean for i, mean in enumerate(means)}
    rows = [
        {"step": step, "near_duplicate_p_value": 0.001 if memorized and step >= memorized else 0.5}
        for step in means
        if step
    ]
    if kd:
        next(row for row in rows if row["step"] == best).update(zip(("kd", "kd_low", "kd_high"), kd, strict=True))
    assert verdict(best, {step: losses(mean, step) for step, mean in means.items()}, rows) == sentence


def test_only_significant_changes_are_called_one():
    """Three images: Student's bound for them is 4.303 standard errors, which 0.04 is above and below."""
    base = torch.tensor([[0.2], [0.3], [0.1]])
    for spread, sign, expected in (
        (0.009, -1, "20 % lower than"),
        (0.009, 1, "20 % higher than"),
        (0.0095, -1, "no significant change from"),
        (0.0, -0.01, "0.2 % lower than"),
    ):
        step = 3**0.5 * spread * torch.tensor([[-1.0], [0.0], [1.0]])
        assert describe_change(paired_difference(base + sign * 0.04 + step, base), 0.2) == expected
    assert describe_change(paired_difference(base[:1] / 2, base[:1]), 0.2) == "no significant change from", "one image"


def test_many_evaluations_of_a_run_are_no_false_alarm():
    """One evaluation in a hundred finds that many near-duplicates by chance."""
    measured = {100 * i: losses(1 - 0.01 * i, 100 * i) for i in range(31)}
    rows = [{"step": 100 * i, "near_duplicate_p_value": 0.008 if i == 17 else 0.5} for i in range(31)]
    assert "duplicates" not in verdict(3000, measured, rows)
    assert "duplicates" in verdict(3000, measured, [{**row, "near_duplicate_p_value": 1e-4} for row in rows])


def test_significance_is_that_of_students_t_test():
    from scipy.stats import ttest_rel

    for n in (2, 3, 8, 40):
        for seed in range(20):
            a, b = losses(0.5, seed, n), losses(0.503, 100 + seed, n)
            assert paired_difference(a, b).is_significant == (
                ttest_rel(a.mean(1).numpy(), b.mean(1).numpy()).pvalue < 0.05
            )
    assert not paired_difference(losses(1, 0, 1), losses(2, 1, 1)).is_significant
