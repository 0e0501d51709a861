import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torchmetrics.functional.classification import binary_jaccard_index

from benchmarks.judges import SIZE, VALIDATION, WORDS, Judges, agreement, butterflies, degraded, iou, truth

pytestmark = pytest.mark.proof  # trains networks; the conditional experiments that they judge are proofs too


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.train(n=128, epochs=14)


@pytest.fixture(scope="module")
def drawn():
    return butterflies(100, VALIDATION)


@pytest.fixture(scope="module")
def images(drawn) -> torch.Tensor:
    return torch.from_numpy(np.array(drawn.images))


def test_little_training_is_clearly_better_than_chance(judges, drawn):
    """Chance is one of ten species, one of twenty words, and an IoU of a fourth for a mask of the whole image."""
    found = judges.evaluate(drawn)
    assert found["species"] > 0.5
    assert found["word"] > 0.35
    assert found["silhouette"] > 0.6


def test_wrong_labels_are_noticed(judges, drawn, images):
    species, words = truth(drawn)
    wrong = np.random.default_rng(0).permutation(len(drawn))
    assert agreement(judges.species(images), [species[i] for i in wrong]) < 0.25
    assert agreement(judges.word(images), [words[i] for i in wrong]) < 0.2
    masks = torch.from_numpy(np.array(drawn.columns["mask"]))
    assert iou(judges.silhouette(images), masks[wrong]).mean() < judges.evaluate(drawn)["silhouette"] - 0.2


def test_iou_equals_torchmetrics():
    predicted, expected = torch.rand(2, 6, 1, 9, 7, generator=torch.Generator().manual_seed(0)) > 0.4
    predicted[4], predicted[5], expected[5] = False, False, False
    theirs = torch.stack([binary_jaccard_index(p.int(), a.int()) for p, a in zip(predicted, expected, strict=True)])
    torch.testing.assert_close(iou(predicted, expected.to(torch.uint8) * 255), theirs.nan_to_num(0))
    assert iou(expected[:4], expected[:4]).tolist() == [1.0] * 4


def test_saved_judges_give_the_same_answers(judges, images, tmp_path, monkeypatch):
    judges.save(tmp_path / "judges.safetensors")
    monkeypatch.setattr(Judges, "train", lambda: pytest.fail("trained again"))
    again = Judges.trained(tmp_path / "judges.safetensors")
    assert again.species(images) == judges.species(images)
    assert again.word(images) == judges.word(images)
    assert torch.equal(again.silhouette(images), judges.silhouette(images))


def test_judges_are_cached_until_their_code_changes(judges, tmp_path, monkeypatch):
    trainings = []
    monkeypatch.setattr(Judges, "train", lambda: trainings.append(1) or judges)
    for _ in range(2):
        Judges.trained(tmp_path / "kept" / "judges.safetensors")
    assert len(trainings) == 1
    monkeypatch.setattr("benchmarks.judges._recipe", lambda: "another")
    Judges.trained(tmp_path / "kept" / "judges.safetensors")
    Judges.trained(None)
    assert len(trainings) == 3
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["judges.safetensors"]


def test_a_seed_gives_the_same_judges_with_any_number_of_threads():
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([v.flatten() for v in Judges.train(seed, n=64, epochs=2).networks.state_dict().values()])

    first, state = weights(0), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        again = weights(0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(1))
    assert torch.equal(state, torch.get_rng_state())


def test_images_of_other_sizes(judges, images):
    large = images[:20].repeat_interleave(2, 2).repeat_interleave(3, 3)
    assert judges.silhouette(large).shape == (20, 1, 2 * SIZE, 3 * SIZE)
    assert agreement(judges.species(large), judges.species(images[:20])) > 0.8
    small = judges.silhouette(large)[:, :, ::2, 1::3]
    assert iou(small, judges.silhouette(images[:20])).mean() > 0.8


def test_masks_move_with_the_images():
    """An image that is its own mask stays bright exactly in the mask, up to a blur of 2 pixels."""
    masks = torch.zeros(40, 1, SIZE, SIZE)
    masks[:, :, 20:44, 10:30] = 1
    x, moved = degraded(2 * masks.expand(-1, 3, -1, -1) - 1, masks, torch.Generator().manual_seed(0))
    assert moved.flatten(1).sum(1).tolist() == [24 * 20] * 40
    assert len({tuple(m.nonzero()[0].tolist()) for m in moved}) > 20
    assert iou(x.mean(1, keepdim=True) > 0, moved).min() > 0.9


def test_the_colour_word_of_a_caption_is_the_butterflys(drawn):
    """Captions name colours of dots and backgrounds too."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    from conditions import COLOURS, word_of

    assert [word_of(caption) for caption in drawn.columns["caption"]] == truth(drawn)[1]
    named = [word for own in COLOURS.values() for word in own]
    assert sorted(named) == sorted(WORDS)
