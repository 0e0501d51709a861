import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torchvision.transforms import functional as tv

from chrysalis.data import pixels


def test_to_signed_is_the_usual_normalisation():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    theirs = tv.normalize(tv.to_tensor(image[0].permute(1, 2, 0).numpy()), [0.5] * 3, [0.5] * 3)
    torch.testing.assert_close(pixels.to_signed(image)[0], theirs)
    assert torch.equal(pixels.to_uint8(pixels.to_signed(image)), image)


def test_to_uint8_rounds_as_stock_pipelines_do():
    x = torch.randn(2, 3, 16, 16)
    processor = VaeImageProcessor()
    theirs = [np.asarray(i) for i in processor.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())]
    assert (pixels.to_uint8(x).permute(0, 2, 3, 1).numpy() == np.stack(theirs)).all()


def test_grid_places_every_image():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 4, 5).contiguous()
    sheet = pixels.grid(images, columns=3, gap=2)
    assert sheet.shape == (3, 2 * 4 + 2, 3 * 5 + 4)
    for i in range(6):
        top, left = i // 3 * 6, i % 3 * 7
        assert (sheet[:, top : top + 4, left : left + 5] == i).all()
    assert (sheet[:, 4:6] == 255).all()


def test_png_keeps_pixels_and_text(tmp_path):
    image = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    pixels.save_png(image, tmp_path / "new" / "a.png", {"seed": "7"})
    with Image.open(tmp_path / "new" / "a.png") as opened:
        assert opened.text == {"seed": "7"}
        assert (np.asarray(opened) == image.permute(1, 2, 0).numpy()).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize(("n", "factor"), [(4, 4), (1, 8), (16, 2), (64, 1)])
def test_a_sheet_of_small_images_is_enlarged_and_holds_their_pixels(tmp_path, n, factor):
    """Of 64 px, 2 apart: 130, 64, 262 and 526 px wide."""
    images = torch.randint(0, 256, (n, 3, 64, 64), dtype=torch.uint8)
    sheet = pixels.grid(images)
    pixels.save_sheet(sheet, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as opened:
        assert opened.width == factor * sheet.shape[-1] >= 512
        reduced = opened.resize((opened.width // factor, opened.height // factor), Image.Resampling.NEAREST)
        assert (np.asarray(reduced) == sheet.permute(1, 2, 0).numpy()).all()
        boxed = opened.reduce(factor)  # a mean over each square: its pixels are all alike
        assert (np.asarray(boxed) == sheet.permute(1, 2, 0).numpy()).all()


def test_images_of_one_and_four_channels_become_rgb():
    """Grey is repeated; RGBA is composited over white, as Pillow does it up to rounding."""
    rgba = torch.randint(0, 256, (2, 4, 5, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for image, rgb in zip(rgba, pixels.as_rgb(rgba), strict=True):
        white = Image.new("RGBA", (6, 5), "white")
        composited = pixels.from_image(Image.alpha_composite(white, pixels.as_image(image)).convert("RGB"))
        assert (composited.int() - rgb.int()).abs().max() <= 1
    assert [pixels.as_image(rgba[0, :channels]).mode for channels in (1, 3, 4)] == ["L", "RGB", "RGBA"]
    assert torch.equal(pixels.as_rgb(rgba[:, :1]), rgba[:, [0, 0, 0]])
    assert pixels.as_rgb(rgba[:, :3]).data_ptr() == rgba.data_ptr(), "RGB stays as it is"
