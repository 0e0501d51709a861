"""The training and sampling loop of tutorials: the baseline of `make bench`.

    python benchmarks/plain_loop.py train  --model FOLDER --data FOLDER --image-size 64 --steps 60
    python benchmarks/plain_loop.py sample --model FOLDER --n 8 --ddim-steps 40

One process in float32; every image is decoded and resized at every access, every loss is read back at once, gradients
accumulate by hand, and samples come from DDIM. It trains the model to predict the noise, whatever it predicted before.
Prints one line of JSON. The seconds to the first step count from the start of this program; a step is a micro-batch.
"""

# ruff: noqa: E402
import time

BEGAN = time.perf_counter()

import argparse
import json
import resource
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, Resize, ToTensor

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFiles(Dataset):
    """Every image below a folder, float32 [3, S, S] in [-1, 1], stretched and randomly mirrored."""

    def __init__(self, folder: str, size: int):
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGES)
        if not self.paths:
            raise SystemExit(f"--data={folder} has no images below it: name another folder.")
        self.transform = Compose([Resize((size, size)), RandomHorizontalFlip(), ToTensor(), Normalize([0.5], [0.5])])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def load_model(folder: str, scheduler_kind: type) -> tuple:
    """Load (UNet, scheduler) from unet/ and scheduler/ in the folder, or from the folder itself."""
    below = (Path(folder) / "unet").is_dir()
    kinds = {"unet": UNet2DModel, "scheduler": scheduler_kind}
    return tuple(kind.from_pretrained(folder, subfolder=name if below else "") for name, kind in kinds.items())


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forever(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


def train(options: argparse.Namespace, device: torch.device) -> dict:
    torch.manual_seed(options.seed)
    unet, noising = load_model(options.model, DDPMScheduler)
    unet = unet.to(device).train()
    images = ImageFiles(options.data, options.image_size)
    loader = DataLoader(images, options.batch_size, shuffle=True, drop_last=True)
    if not len(loader):
        raise SystemExit(f"--data={options.data} has fewer than {options.batch_size} images: lower --batch-size.")
    adamw = torch.optim.AdamW(unet.parameters(), lr=options.lr)
    losses, first_at, since = [], None, time.perf_counter()
    for step, x0 in enumerate(islice(forever(loader), options.steps), start=1):
        x0 = x0.to(device)
        eps = torch.randn(x0.shape).to(device)
        t = torch.randint(noising.config.num_train_timesteps, (len(x0),), device=device)
        predicted = unet(noising.add_noise(x0, eps, t), t, return_dict=False)[0]
        loss = F.mse_loss(predicted, eps)
        loss.backward()
        losses.append(loss.item())
        if step % options.accumulate == 0:
            adamw.step()
            adamw.zero_grad()
        first_at = first_at or time.perf_counter() - BEGAN
        if step == options.warmup:
            wait_for(device)
            since = time.perf_counter()
    wait_for(device)
    seconds = time.perf_counter() - since
    if options.save:
        from diffusers import DDPMPipeline

        DDPMPipeline(unet, noising).save_pretrained(options.save)
    return {
        "images_per_second": options.batch_size * (options.steps - options.warmup) / seconds,
        "timed_seconds": seconds,
        "first_step_at_s": first_at,
        "mean_loss": sum(losses) / len(losses),
        "losses": losses,
    }


@torch.no_grad()
def ddim_samples(unet: UNet2DModel, scheduler: DDIMScheduler, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Denoise x [B, 3, H, W] to images, about [-1, 1]."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        predicted = unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(predicted, t, x).prev_sample
    return x


def sample(options: argparse.Namespace, device: torch.device) -> dict:
    torch.manual_seed(options.seed)
    unet, scheduler = load_model(options.model, DDIMScheduler)
    unet = unet.to(device).eval()
    side = options.image_size or unet.config.sample_size
    wait_for(device)
    since = time.perf_counter()
    x = ddim_samples(unet, scheduler, torch.randn(options.n, 3, side, side).to(device), options.ddim_steps)
    wait_for(device)
    seconds = time.perf_counter() - since
    if options.save:
        torch.save(x.cpu(), options.save)
    return {"images_per_second": options.n / seconds, "timed_seconds": seconds}


def print_record(what: str, device: torch.device, figures: dict) -> None:
    """Print one line of JSON, with the peak memory of the process."""
    record = {"what": what, "device": str(device), "torch": torch.__version__, **figures}
    record["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        record["peak_gpu_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    print(json.dumps(record))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "sample"))
    parser.add_argument("--model", required=True, help="a diffusers folder")
    parser.add_argument("--data", help="a folder of images, with folders below it")
    parser.add_argument("--image-size", type=int, default=0, help="sampling: the model's training size by default")
    parser.add_argument("--steps", type=int, default=60, help="micro-batches")
    parser.add_argument("--warmup", type=int, default=4, help="micro-batches before the clock starts")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--n", type=int, default=8, help="images to sample")
    parser.add_argument("--ddim-steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", help="the trained model's folder, or the samples' file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if options.what == "train" and not (options.data and options.image_size):
        parser.error("train needs --data and --image-size: name both")
    device = torch.device(options.device)
    figures = {"train": train, "sample": sample}[options.what](options, device)
    print_record(options.what, device, figures)


if __name__ == "__main__":
    main()
