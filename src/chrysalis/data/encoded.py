"""Images encoded once by a latent model's autoencoder, in the user's cache folder beside the decoded set."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from chrysalis.data.source import content_hash
from chrysalis.data.store import ImageSet, require_space
from chrysalis.system.files import written
from chrysalis.system.terminal import stage

FEW = 8  # images that are encoded at once: at a high resolution, an encoder needs much memory per image


def encoded(image_set: ImageSet, train_rows: np.ndarray, codec: Any, flip: bool, device: torch.device) -> Path | None:
    """Return the .npy file of a set's moments, float32 [N, 1 or 2, K, h, w]; encode the images if it is missing.

    The second axis has the image and, with `flip`, its mirror image, which is encoded apart: an autoencoder is not
    symmetric. train_rows: what a new autoencoder is trained on, first. codec: the model's; None is returned for one
    without `moments`, which works on pixels.
    """
    if not hasattr(codec, "moments"):
        return None
    codec.prepare(image_set, train_rows, device)
    key = content_hash(f"1 {codec.fingerprint()} {flip}".encode())
    file = image_set.folder.with_name(f"{image_set.folder.name}-encoded-{key:016x}.npy")
    with FileLock(f"{file}.lock"):
        for abandoned in file.parent.glob(f".{file.name}.*.partial"):
            abandoned.unlink()
        if not file.is_file():
            _encode(image_set.images, codec, 1 + flip, device, file)
    return file


def _encode(images: np.ndarray, codec: Any, views: int, device: torch.device, file: Path) -> None:
    first = codec.moments(torch.from_numpy(images[:1].copy()).to(device))
    shape = (len(images), views, *first.shape[1:])
    require_space(file.parent, 4 * math.prod(shape), "the encoded images need")
    with written(file) as partial, stage(f"encoding {len(images)} images", len(images)) as progress:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, len(images), FEW):
            chunk = torch.from_numpy(images[start : start + FEW].copy()).to(device)
            for view, seen in enumerate((chunk, chunk.flip(-1))[:views]):
                array[start : start + FEW, view] = codec.moments(seen).cpu().numpy()
            progress.advance(len(chunk))
        array.flush()
        del array
