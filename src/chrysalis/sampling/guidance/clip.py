"""CLIP as an energy: the distance of an image to a text or to another image."""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from chrysalis.data import pixels
from chrysalis.data.image_file import ImageFile
from chrysalis.diffusion import seeds
from chrysalis.sampling.guidance.energies import Energy
from chrysalis.system import hub
from chrysalis.system.errors import UserError
from chrysalis.system.memory import align
from chrysalis.system.ranges import UpTo1000


class Clip(Energy):
    """Half the squared angle of CLIP embeddings (Radford et al. 2021, arXiv 2103.00020) to those of a text or image.

    Args:
        model: a folder or hub id of a transformers CLIPModel.
        text, image: the target; with both, they have equal weight.
        cutouts: number of random square crops, half to all of the shorter side, whose distances are averaged, which
            favors changes that help everywhere (VQGAN-CLIP, Crowson et al. 2022, arXiv 2204.08583); 0 for the whole
            image, stretched to CLIP's square.
    """

    def __init__(
        self, model: str, text: str | None = None, image: str | None = None, cutouts: UpTo1000 = 8, **settings
    ):
        super().__init__(**settings)
        if text is None and image is None:
            raise UserError("guidance=clip needs a target: give guidance.clip.text, guidance.clip.image, or both.")
        target_image = None if image is None else ImageFile(image, "guidance.clip.image")
        self.cutouts = cutouts
        clip, tokenizer, mean, std = _load(str(model), text is not None)
        self.vision, self.projection = clip.vision_model, clip.visual_projection
        self.size = clip.config.vision_config.image_size
        self.mean, self.std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        with torch.no_grad():
            targets = [] if text is None else [_embed_text(clip, tokenizer, str(text))]
            if target_image is not None:
                targets.append(self.embed(pixels.to_signed(target_image.at((self.size, self.size))) / 2 + 0.5))
        self.targets = torch.cat(targets)

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        """Compute the losses [B], from 0 to pi^2 / 2, of x0 [B, 3, H, W], about [-1, 1], of any size at one t, [B]."""
        image = x0.float() / 2 + 0.5  # not clamped: a pixel beyond the range still has its gradient
        boxes = self.boxes(x0.shape[2], x0.shape[3], float(t[0]))
        crops = [image[:, :, top : top + h, left : left + w] for top, left, h, w in boxes]
        square = (self.size, self.size)
        crops = [F.interpolate(crop, square, mode="bilinear", antialias=True, align_corners=False) for crop in crops]
        u = self.embed(torch.cat(crops)).view(len(boxes), len(x0), 1, -1)
        v = self.targets.to(u)
        # 2 arcsin(|u - v| / 2)^2 of unit vectors; arctan's gradient stays finite where they are equal or opposite
        half = torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))
        return 2 * half.square().mean(dim=(0, 2))

    def boxes(self, height: int, width: int, t: float) -> list[tuple[int, int, int, int]]:
        """(top, left, height, width) of the crops at timestep t, the same for every image of this shape."""
        if not self.cutouts:
            return [(0, 0, height, width)]
        shorter, boxes = min(height, width), []
        for j in range(self.cutouts):
            generator = torch.Generator().manual_seed(seeds.key("cutout", t, j))
            size, down, across = torch.rand(3, generator=generator).tolist()
            least = -(-shorter // 2)
            side = least + int(size * (shorter - least + 1))
            boxes.append((int(down * (height - side + 1)), int(across * (width - side + 1)), side, side))
        return boxes

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Embed images, float32 [B, 3, size, size], about [0, 1], as unit vectors [B, D]."""
        self.vision.to(image.device)
        self.projection.to(image.device)
        pixel_values = (image - self.mean.to(image)) / self.std.to(image)
        return F.normalize(self.projection(self.vision(pixel_values=pixel_values).pooler_output), dim=1)


def _load(model: str, with_text: bool) -> tuple:
    """Load (frozen CLIPModel, its tokenizer or None, mean and std of each channel) from a folder or a hub id."""
    setting, like = f"guidance.clip.model={model}", "openai/clip-vit-large-patch14"
    with hub.transformers_source(setting, model, "a CLIPModel", like, extra="clip") as where:
        from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

        kind = CLIPConfig.get_config_dict(**where)[0].get("model_type")
        if kind != "clip":
            raise ValueError(f"its config.json is missing or is of another model (model_type {kind})")
        loaded: Any = CLIPModel.from_pretrained(**where, weights_only=True, output_loading_info=True)
        clip, report = loaded
        hub.require_complete(report)
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False) if with_text else None
        try:
            processor = CLIPImageProcessor.from_pretrained(**where)
        except OSError:
            if Path(where["pretrained_model_name_or_path"], "preprocessor_config.json").exists():  # and cannot be read
                raise
            processor = CLIPImageProcessor()  # with the mean and std that OpenAI trained CLIP with
    return align(clip.float()).requires_grad_(False).eval(), tokenizer, processor.image_mean, processor.image_std


def _embed_text(clip, tokenizer, text: str) -> torch.Tensor:
    """Embed a text as a unit vector [1, D]. A tokenizer that transformers makes without files knows no word."""
    longest = clip.config.text_config.max_position_embeddings
    ids = tokenizer(text, truncation=True, max_length=longest + 1)["input_ids"]
    if len(ids) > longest:
        raise UserError(f"guidance.clip.text is longer than the {longest} tokens that the model reads: shorten it.")
    if set(ids) <= set(tokenizer.all_special_ids):
        raise UserError(f"guidance.clip.text={text}: the tokenizer knows no word of it. Use another text or model.")
    return F.normalize(clip.text_projection(clip.text_model(input_ids=torch.tensor([ids])).pooler_output), dim=1)
