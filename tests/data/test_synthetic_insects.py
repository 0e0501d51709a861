from dataclasses import replace

import numpy as np
import pytest
import torch

from chrysalis.data.synthetic.butterfly_species import BUTTERFLIES
from chrysalis.data.synthetic.domains import SPECIES, draw, species_names
from chrysalis.data.synthetic.imaginary_insects import Canvas, lay_insect
from chrysalis.data.synthetic.insect_kinds import INSECT_KINDS
from chrysalis.data.synthetic.insect_poses import Pose
from chrysalis.data.synthetic.insect_species import (
    appearance,
    butterfly_appearances,
    distances,
    least_butterfly_distance,
    random_species,
)
from chrysalis.data.synthetic.plane import Plane
from chrysalis.data.synthetic.species import draw_species
from chrysalis.evaluation.features import DenoiserEncoder, extract

GREY = 0.6


@pytest.fixture(scope="module")
def drawn():
    return [draw("insects", i, 5, 32) for i in range(200)]


@pytest.mark.proof
def test_the_same_scene_at_every_size_from_32_to_256():
    for index in range(8):
        large = draw("insects", index, 3, 256)
        for size, tolerance in ((32, 9), (64, 5), (128, 3)):
            step = 256 // size
            averaged = large.image.reshape(size, step, size, step, 3).mean(axis=(1, 3))
            small = draw("insects", index, 3, size)
            assert np.abs(averaged - small.image).mean() < tolerance
            covered = large.mask.reshape(size, step, size, step).mean(axis=(1, 3)) > 127
            assert (covered != (small.mask > 0)).mean() < 1.5 / size
            assert small.caption == large.caption
            assert small.label == large.label


def test_every_image_has_another_species_and_most_have_another_background(drawn):
    kinds = {d.label for d in drawn}
    captions = {d.caption for d in drawn}
    assert kinds == set(range(len(INSECT_KINDS)))
    assert len(captions) > 0.95 * len(drawn)
    assert len({d.caption.rsplit(", ", 1)[1] for d in drawn}) >= 18
    assert all(species_names("insects")[d.label] in d.caption for d in drawn)
    assert all(" insect" in d.caption for d in drawn)


def test_subjects_are_visible_and_framed(drawn):
    covered = np.array([(d.mask > 0).mean() for d in drawn])
    assert covered.min() > 0.01
    assert covered.max() < 0.8
    assert 0.14 < np.median(covered) < 0.34  # the drawn butterflies: 0.25
    contrast = [np.abs(d.image[d.mask > 0].mean(axis=0) - d.image[d.mask == 0].mean(axis=0)).max() / 255 for d in drawn]
    assert np.percentile(contrast, 5) > 0.06


def test_palettes_spread_over_all_hues_and_tones(drawn):
    """The mean colors of subjects fill the color circle, and lie between dark and pale."""
    subject = np.array([d.image[d.mask > 0].mean(axis=0) / 255 for d in drawn])
    a, b = subject[:, 0] - subject[:, 1], subject[:, 2] - (subject[:, 0] + subject[:, 1]) / 2
    sector = np.floor((np.arctan2(b, a) / (2 * np.pi) + 0.5) * 8).astype(int) % 8
    assert (np.bincount(sector, minlength=8) >= 3).all()
    tone = subject.mean(axis=1)
    assert np.percentile(tone, 5) < 0.3
    assert np.percentile(tone, 95) > 0.62


def test_no_species_is_nearer_to_a_drawn_butterfly_than_these_are_to_each_other():
    """In the colors of the wings, place by place: independent of pose, background and light."""
    known, _ = butterfly_appearances()
    for i in range(150):
        s = random_species(np.random.default_rng(i))
        wings = [(s.anatomy.fore, s.pattern.fore), (s.anatomy.hind, s.pattern.hind)]
        look = appearance(wings, s.palette.colors)
        assert distances(look, known).min() >= least_butterfly_distance()


def _butterfly(number: int, i: int) -> np.ndarray:
    plane = Plane.of_size(64)
    bare = replace(BUTTERFLIES[number], backgrounds=(lambda plane, rng: np.full((*plane.x.shape, 3), GREY),))
    rgb = draw_species(bare, plane, np.random.default_rng([9, number, i]))[0]
    return (plane.downsampled(rgb).clip(0, 1) * 255).astype(np.uint8)


def _spread_insect(i: int) -> np.ndarray:
    rng = np.random.default_rng([7, i])
    species = random_species(rng)
    scale, turn, swing = 0.92 * rng.uniform(0.86, 1.06), rng.normal(0, 0.28), rng.uniform(-9, 7)
    canvas = Canvas(Plane.of_size(64))
    pose = Pose("spread", 0.0, 0.03, scale, turn, 0.0, rng.uniform(-0.1, 0.1), 0.15, swing)
    lay_insect(canvas, species, pose, np.array([-0.3, -0.5, 0.81]), rng)
    paint, cover, _ = canvas.downsampled()
    return ((paint + GREY * (1 - cover)[..., None]).clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.proof  # looks with the bundled network
def test_insects_are_as_far_from_the_butterflies_in_the_features_of_a_network():
    """An independent measure: features of the bundled network, which see shapes and textures as well as colors.

    Insects and butterflies are drawn alike, wings spread on plain grey, so that only the species differ. A species
    lies at the mean of its images; the two nearest species say how far apart different species can be expected.
    """
    network = DenoiserEncoder()

    def embedded(images: list[np.ndarray]) -> torch.Tensor:
        found = extract(network, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous())
        return torch.nn.functional.normalize(found)

    butterflies = embedded([_butterfly(k, i) for k in range(10) for i in range(6)])
    centers = butterflies.view(10, 6, -1).mean(dim=1)
    nearest_species = torch.pdist(centers).min()
    insects = embedded([_spread_insect(i) for i in range(60)])
    assert torch.cdist(insects, centers).min() >= nearest_species


def test_domain_all_is_unchanged():
    assert tuple(SPECIES) == ("butterflies", "moths", "flowers")
