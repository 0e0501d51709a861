import logging
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import CLIP_SIZE as SIZE
from conftest import tiny_clip, tiny_unet
from diffusers import DDPMScheduler
from PIL import Image

from chrysalis.data import pixels
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.sampling import schedulers
from chrysalis.sampling.guidance.clip import Clip
from chrysalis.sampling.guidance.guided import Guided
from chrysalis.sampling.loop import sample
from chrysalis.system.errors import UserError

pytest.importorskip("transformers")

OWN = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def noisy(n, height=SIZE, width=SIZE):
    return seeds.normal(list(range(n)), (3, height, width)) * 0.5


def at(t, n):
    return torch.full((n,), t)


@pytest.mark.parametrize("own", [None, OWN])
def test_the_loss_is_the_great_circle_distance_that_transformers_gives(clip_folder, tmp_path, image, own):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False, **(own or {}))
    if own:
        processor.save_pretrained(folder)
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)) for _ in range(3)]
    with torch.no_grad():
        u = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output.double()
        said = model.get_text_features(**tokenizer("a blue moth", return_tensors="pt")).pooler_output.double()
        shown = model.get_image_features(**processor(images=Image.open(image), return_tensors="pt")).pooler_output
    x0 = pixels.to_signed(torch.stack([pixels.from_image(image) for image in images]))

    def by_hand(v):
        chord = (u / u.norm(dim=1, keepdim=True) - v / v.norm()).norm(dim=1)
        return 2 * torch.arcsin(chord / 2) ** 2

    for targets, expected in (
        ({"text": "a blue moth"}, by_hand(said)),
        ({"image": str(image)}, by_hand(shown.double())),
        ({"text": "a blue moth", "image": str(image)}, (by_hand(said) + by_hand(shown.double())) / 2),
    ):
        loss = Clip(str(folder), **targets, cutouts=0).loss(x0, at(10, 3), None)
        torch.testing.assert_close(loss.double(), expected, rtol=0, atol=1e-5)
    assert by_hand(said).std() > 1e-3  # the images differ


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (9, 9), (40, 24), (7, 33)])
@pytest.mark.parametrize("cutouts", [0, 4])
def test_any_shape_has_a_gradient_and_a_batch_changes_nothing(clip_folder, shape, cutouts):
    clip, x0, t = Clip(str(clip_folder), "moth", cutouts=cutouts), noisy(4, *shape).requires_grad_(), at(300, 4)
    together = clip.loss(x0, t, None)
    (grad,) = torch.autograd.grad(together.sum(), x0)
    assert grad.isfinite().all()
    assert (grad.flatten(1).norm(dim=1) > 0).all()
    alone = torch.cat([clip.loss(x0[i : i + 1], t[:1], None) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_finite_at_no_distance_and_beyond_the_range(clip_folder, image):
    clip = Clip(str(clip_folder), image=str(image), cutouts=0)
    x0 = pixels.to_signed(pixels.from_image(Image.open(image)))[None].requires_grad_()
    loss = clip.loss(x0, at(0, 1), None)
    assert loss.item() < 1e-10
    assert torch.autograd.grad(loss.sum(), x0)[0].isfinite().all()
    white = torch.full((1, 3, SIZE, SIZE), 1.5, requires_grad=True)
    assert torch.autograd.grad(clip.loss(white, at(0, 1), None).sum(), white)[0].abs().max() > 0


def test_cutouts_depend_on_the_timestep_alone(clip_folder):
    x0 = noisy(2)
    clip = Clip(str(clip_folder), "moth", cutouts=4)
    once = clip.loss(x0, at(500, 2), None)
    assert torch.equal(once, Clip(str(clip_folder), "moth", cutouts=4).loss(x0, at(500, 2), None))
    assert not torch.allclose(once, clip.loss(x0, at(480, 2), None), atol=1e-4)


def test_cutouts_lie_in_the_image_and_show_half_to_all_of_it(clip_folder):
    clip = Clip(str(clip_folder), "moth", cutouts=300)
    sides = []
    for top, left, height, width in clip.boxes(20, 31, 7.0):
        assert height == width
        assert 0 <= top <= 20 - height
        assert 0 <= left <= 31 - width
        sides.append(height)
    assert (min(sides), max(sides)) == (10, 20)
    plain = torch.full((1, 3, 20, 31), 0.3)  # looks alike through every cut-out
    whole = Clip(str(clip_folder), "moth", cutouts=0).loss(plain, at(7, 1), None)
    torch.testing.assert_close(clip.loss(plain, at(7, 1), None), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_what", ["x_t", "x0"])
def test_guidance_brings_the_image_nearer(clip_folder, at_what):
    distance, judge = {}, Clip(str(clip_folder), "moth", cutouts=0)
    for scale in (0.0, 0.02):
        denoiser = Denoiser(tiny_unet().eval(), DDPMScheduler(), objective("epsilon"))
        clip = Clip(str(clip_folder), "moth", cutouts=2, scale=scale, at=at_what)
        guided = Guided(denoiser, {"clip": clip})
        x = sample(guided, schedulers.build(denoiser.scheduler, "ddim"), 20, seeds.generators(range(4)), (SIZE, SIZE))
        distance[scale] = judge.loss(x.clamp(-1, 1), at(0, 4), None).median()
        assert len(guided.records) == (20 if scale else 0)
    assert distance[0.02] < 0.95 * distance[0.0]


MISTAKES = {
    "no target": ({}, r"guidance\.clip\.text, guidance\.clip\.image"),
    "no such image": ({"image": "nowhere.png"}, r"guidance\.clip\.image=nowhere\.png is not an image"),
    "no network": ({"text": "a", "model": "openai/none"}, r"guidance\.clip\.model=openai/none .*there is no network"),
    "no such folder": ({"text": "a", "model": "./none"}, r"guidance\.clip\.model=\./none is neither a folder nor"),
    "unknown words": ({"text": "漢字"}, r"guidance\.clip\.text=漢字.* knows no word"),
    "empty text": ({"text": ""}, r"guidance\.clip\.text=.* knows no word"),
    "long text": ({"text": "a moth with very blue wings"}, r"guidance\.clip\.text is longer than the 16 tokens"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_its_key(clip_folder, name):
    settings, message = MISTAKES[name]
    with pytest.raises(UserError, match=message):
        Clip(**{"model": str(clip_folder), **settings})


def test_a_folder_that_cannot_be_used_says_why(clip_folder, tmp_path):
    from transformers import BertConfig

    folder = shutil.copytree(clip_folder, tmp_path / "clip")

    def refused(why):
        with pytest.raises(
            UserError, match=r"guidance\.clip\.model=.*/clip could not be loaded as a CLIPModel.*" + why
        ):
            Clip(str(folder), "moth")

    (folder / "preprocessor_config.json").write_text("{")
    refused("preprocessor_config")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    refused("incomplete metadata")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(r"pytorch_model\.bin is damaged, or holds more than tensors")
    BertConfig().save_pretrained(folder)
    refused("model_type bert")
    (folder / "config.json").unlink()
    refused("config.json is missing")


def test_a_tokenizer_without_its_files_is_refused(clip_folder, tmp_path):
    """transformers would make one up that reads every text alike."""
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="tokenizer knows no word of it"):
        Clip(str(folder), "moth")


def test_weights_that_are_not_all_there_are_refused(clip_folder, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    with pytest.raises(UserError, match="1 of its weights are not in its file"):
        Clip(str(folder), "moth")
    log.removeHandler(caplog.handler)
    assert not caplog.records  # transformers' own table of them


def test_without_transformers_it_says_what_to_install(clip_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install "chrysalis\[clip\]"'):
        Clip(str(clip_folder), "moth")


def test_loading_says_nothing(clip_folder, capfd):
    from transformers.utils import logging as bars

    before = bars.is_progress_bar_enabled()
    Clip(str(clip_folder), "moth")
    assert capfd.readouterr() == ("", "")
    assert bars.is_progress_bar_enabled() == before
