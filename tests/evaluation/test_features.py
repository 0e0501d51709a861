"""Features equal those of the libraries they come from, in any batch, and are cached by content."""

import json

import numpy as np
import pytest
import torch
from conftest import CLIP_SIZE, tiny_clip, tiny_unet
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import (
    AutoImageProcessor,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    ViTMAEConfig,
    ViTMAEModel,
)

from chrysalis.data.store import open_set
from chrysalis.data.synthetic.source import DrawnSource
from chrysalis.evaluation import features as f
from chrysalis.system.errors import UserError


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(open_set(DrawnSource("moths", 9), (3, 40, 32), "crop").images.copy())


@pytest.fixture
def denoiser_features(model_folder):
    return f.DenoiserEncoder(str(model_folder))


def test_denoiser_features_are_its_encoders_activations(denoiser_features, images, model_folder):
    """Compared with hooks on the whole stock UNet, applied to the scaled image."""
    unet = tiny_unet().eval()
    outputs = {}
    unet.down_blocks[-1].register_forward_hook(lambda m, i, o: outputs.update(b=o[0]))
    unet.mid_block.register_forward_hook(lambda m, i, o: outputs.update(c=o))
    small = f.resized(images, (16, 16))
    with torch.no_grad():
        unet(DDPMScheduler().alphas_cumprod[100] ** 0.5 * (small / 127.5 - 1), 100)
    theirs = []
    for h in outputs.values():
        h = h.mean((2, 3))
        theirs.append((h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt())
    torch.testing.assert_close(f.extract(denoiser_features, images), torch.cat(theirs, 1), rtol=1e-3, atol=1e-4)
    assert denoiser_features.dim == 16 + 16
    assert f.DenoiserEncoder(str(model_folder), levels=2).dim == 8 + 16 + 16


def test_grey_images_have_the_features_of_their_rgb_copies(denoiser_features, images):
    grey = images[:, :1]
    as_rgb = f.extract(denoiser_features, grey.expand(-1, 3, -1, -1).contiguous())
    torch.testing.assert_close(f.extract(denoiser_features, grey), as_rgb, rtol=1e-4, atol=1e-5)


def test_an_image_has_the_same_features_in_any_batch(denoiser_features, images, monkeypatch):
    whole = f.extract(denoiser_features, images)
    monkeypatch.setattr(f, "BATCH_SIZE", 2)
    torch.testing.assert_close(f.extract(denoiser_features, images), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.proof
def test_inception_features_equal_torch_fidelitys(tmp_path, images, monkeypatch):
    """With random weights, because the real ones are downloads; torch-fidelity's own loader would unpickle them."""
    torch.manual_seed(0)
    module = "torch_fidelity.feature_extractor_inceptionv3"
    with monkeypatch.context() as patched:
        patched.setattr(f"{module}.FeatureExtractorInceptionV3.load_state_dict", lambda self, state: None)
        patched.setattr(f"{module}.load_state_dict_from_url", lambda *a, **k: {})
        theirs = FeatureExtractorInceptionV3("theirs", ["2048"])
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    with torch.no_grad():
        expected = theirs(images[:3])[0]
    for name in ("w.safetensors", "w.pth"):
        ours = f.extract(f.Inception(str(tmp_path / name)), images[:3])
        assert ours.shape == (3, 2048)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_nothing_unpickles(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harmed").mkdir, ()

    torch.save({"w": Harm()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"features\.weights=.*w\.pth could not be loaded"):
        f.Inception(str(tmp_path / "w.pth"))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_transformer_features_equal_those_of_transformers(tmp_path, images, kind):
    side = CLIP_SIZE if kind == "clip" else 28
    size = {"height": side, "width": side}
    processing = {
        "size": size,
        "crop_size": size,
        "do_center_crop": False,
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.3],
    }
    processing |= {"image_std": [0.2, 0.3, 0.4], "image_processor_type": "CLIPImageProcessor"}
    if kind == "clip":
        folder = tiny_clip(tmp_path / "clip")
    else:
        folder = tmp_path / "dino"
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": side}
        Dinov2Model(Dinov2Config(**sizes, patch_size=14)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    network = f.Transformer(str(folder))
    square = f.resized(images, (side, side))
    prepared = AutoImageProcessor.from_pretrained(folder)(list(square), return_tensors="pt")
    with torch.no_grad():
        if kind == "clip":
            theirs = CLIPModel.from_pretrained(folder).get_image_features(**prepared)
            theirs = getattr(theirs, "pooler_output", theirs)
        else:
            theirs = Dinov2Model.from_pretrained(folder)(**prepared).last_hidden_state[:, 0]
    ours = f.extract(network, images)
    assert ours.shape == (9, network.dim)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_features_of_a_set_are_computed_once(denoiser_features, monkeypatch):
    images, computed = open_set(DrawnSource("moths", 12), (3, 16, 16), "crop"), []
    plain = f.extract
    monkeypatch.setattr(
        f, "extract", lambda network, images, device: computed.append(len(images)) or plain(network, images)
    )
    monkeypatch.setattr(f, "BATCH_SIZE", 4)
    rows, others = np.array([4, 0, 7, 2, 9]), np.array([0, 4])
    first = f.extract_rows(denoiser_features, images, rows)
    assert torch.equal(f.extract_rows(denoiser_features, images, rows), first)
    assert computed == [4, 1]
    own = plain(denoiser_features, torch.from_numpy(images.images.copy()))
    torch.testing.assert_close(first, own[rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(f.extract_rows(denoiser_features, images, others), own[others], rtol=1e-4, atol=1e-5)
    assert computed == [4, 1, 2]
    mirrored = f.extract_rows(denoiser_features, images, rows, mirrored=True)
    own = plain(denoiser_features, torch.from_numpy(images.images[rows]).flip(-1))
    torch.testing.assert_close(mirrored, own, rtol=1e-4, atol=1e-5)
    for file in (f.cache_folder() / "features").iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(f.extract_rows(denoiser_features, images, rows), first)


def test_other_weights_have_another_digest(tmp_path):
    digests = set()
    for seed in (0, 1):
        DDPMPipeline(unet=tiny_unet(seed), scheduler=DDPMScheduler()).save_pretrained(tmp_path / str(seed))
        digests.add(f.network_digest(f.DenoiserEncoder(str(tmp_path / str(seed)))))
    assert len(digests) == 2


def test_nonfinite_features_are_refused(denoiser_features, images):
    denoiser_features.module.conv_in.weight.data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"contain NaN or infinity: choose another network"):
        f.extract(denoiser_features, images)


def test_a_nondeterministic_model_is_refused(tmp_path):
    """A masked autoencoder hides a random part of an image each time."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    ViTMAEModel(ViTMAEConfig(**sizes, **decoder, intermediate_size=16)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor"}))
    with pytest.raises(UserError, match=r"features\.pretrained=.* does not turn an image into one vector"):
        f.Transformer(str(tmp_path))


def test_a_model_without_patches_is_refused_in_a_sentence(tmp_path):
    ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1])).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ConvNextImageProcessor"}))
    with pytest.raises(UserError, match=r"features\.pretrained=.* (could not be loaded|does not turn)"):
        f.Transformer(str(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: f.DenoiserEncoder("no/such"), r"features\.pretrained=no/such"),
        (lambda: f.Inception("no.pth"), r"features\.weights=no\.pth"),
        (lambda: f.Transformer("./none"), "neither a folder nor a hub id like facebook/dinov2-small"),
        (lambda: f.Transformer("facebook/dinov2-small"), "there is no network"),
    ],
)
def test_mistakes_are_reported(make, message):
    with pytest.raises(UserError, match=message):
        make()
