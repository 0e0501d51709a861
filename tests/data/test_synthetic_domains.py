import numpy as np
import pytest
import torch

from chrysalis.data.store import open_set
from chrysalis.data.synthetic.domains import DOMAINS, draw, species_names
from chrysalis.data.synthetic.source import DrawnSource


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_image_is_a_function_of_domain_index_and_seed(domain):
    first, again = draw(domain, 3, 1, 32), draw(domain, 3, 1, 32)
    assert (first.image == again.image).all()
    assert first.caption == again.caption
    for other in (draw(domain, 4, 1, 32), draw(domain, 3, 2, 32)):
        assert not (first.image == other.image).all()


@pytest.mark.parametrize(
    "domain", [pytest.param(name, marks=[pytest.mark.proof] * (name != "butterflies")) for name in DOMAINS]
)
def test_the_same_scene_at_every_size(domain):
    """A large drawing averaged down looks like the small one, and has detail that the small one lacks."""
    for index in range(4):
        small, large = draw(domain, index, 0, 64), draw(domain, index, 0, 256)
        averaged = large.image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.abs(averaged - small.image).mean() < 4
        blown_up = small.image.repeat(4, axis=0).repeat(4, axis=1).astype(float)
        edges = lambda image: np.abs(np.diff(image.astype(float), axis=1)).max(axis=2)  # noqa: E731
        assert np.percentile(edges(large.image), 99) > 30
        assert np.abs(blown_up - large.image).mean() > 1


def test_ten_species_all_drawn_and_named_in_their_captions():
    names = species_names("butterflies")
    drawn = [draw("butterflies", i, 0, 32) for i in range(120)]
    assert len(names) >= 8
    assert {d.label for d in drawn} == set(range(len(names)))
    assert all(names[d.label] in d.caption for d in drawn)


def test_color_words_match_the_color():
    """The mean color under the mask of 'blue' morphos is bluer than of 'violet' ones, and so on."""

    drawn = [draw("butterflies", i, 0, 32) for i in range(250)]

    def mean_color(word):
        found = [d for d in drawn if f" {word} " in d.caption]
        return np.mean([d.image[d.mask > 0].mean(axis=0) for d in found], axis=0)

    blue, violet, white = mean_color("blue morpho"), mean_color("violet morpho"), mean_color("white cabbage white")
    assert blue[2] > blue[0] + 60
    assert violet[0] > blue[0] + 20
    assert white.min() > 170


@pytest.mark.parametrize("domain", DOMAINS)
def test_masks_cover_the_subject(domain):
    for i in range(12):
        drawn = draw(domain, i, 0, 64)
        covered = (drawn.mask > 0).mean()
        assert 0.08 < covered < 0.7
        assert set(np.unique(drawn.mask)) == {0, 255}


def test_the_source_returns_the_drawn_images():
    images = open_set(DrawnSource("moths", 8), (3, 32, 32), "crop")
    for i in range(8):
        drawn = draw("moths", i, 0, 32)
        assert torch.equal(torch.from_numpy(images.images[i]), torch.from_numpy(drawn.image).permute(2, 0, 1))
        assert images.value_names["label"][images.columns["label"][i]] == species_names("moths")[drawn.label]
        assert images.columns["caption"][i] == drawn.caption
