"""What diffusers' own unconditional training script does with its best flags: the second baseline of `make bench`.

    python -m benchmarks.diffusers_script --model FOLDER --data FOLDER --image-size 64 --steps 28

An independent implementation of examples/unconditional_image_generation/train_unconditional.py with
--mixed_precision, --use_ema, --center_crop and --random_flip: accelerate, images decoded and resized by the data
loader at every access, AdamW and a cosine schedule with the script's own values, gradients clipped at 1, diffusers' EMA
after every optimizer step, the loss read back and logged at every step. The script starts from random weights; this one
starts from a given UNet, so that all sides train the same one. Prints one line of JSON.
"""

# ruff: noqa: E402
import time

BEGAN = time.perf_counter()

import argparse
from itertools import islice
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from datasets import load_dataset
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm.auto import tqdm

from benchmarks.plain_loop import forever, load_model, print_record, wait_for

BETAS, WEIGHT_DECAY, EPS = (0.95, 0.999), 1e-6, 1e-8  # AdamW's; the script's defaults, like those of the flags below


def image_loader(options: argparse.Namespace, cache: str) -> DataLoader:
    """Load batches {"input": float32 [B, 3, S, S] in [-1, 1]}; every image is decoded at every access."""
    images = load_dataset("imagefolder", data_dir=options.data, split="train", cache_dir=cache)
    augment = transforms.Compose(
        [
            transforms.Resize(options.image_size, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(options.image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    images.set_transform(lambda rows: {"input": [augment(image.convert("RGB")) for image in rows["image"]]})
    return DataLoader(images, options.batch_size, shuffle=True, num_workers=options.num_workers)


def train(options: argparse.Namespace, scratch: str) -> dict:
    # 1. The model and its optimizer, as accelerate prepares them
    project = ProjectConfiguration(project_dir=scratch, logging_dir=f"{scratch}/logs")
    accelerator = Accelerator(
        gradient_accumulation_steps=options.accumulate,
        mixed_precision=options.mixed_precision,
        log_with="tensorboard",
        project_config=project,
        cpu=options.device == "cpu",
    )
    torch.manual_seed(options.seed)
    unet, noising = load_model(options.model, DDPMScheduler)
    for p in unet.parameters():  # loaded weights lie anywhere in memory, the script's random ones on cache lines
        p.data = p.data.clone()
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    adamw = torch.optim.AdamW(unet.parameters(), lr=options.lr, betas=BETAS, weight_decay=WEIGHT_DECAY, eps=EPS)
    warmup = options.lr_warmup_steps * options.accumulate
    schedule = get_scheduler("cosine", adamw, num_warmup_steps=warmup, num_training_steps=options.steps)
    loader = image_loader(options, f"{scratch}/datasets")
    unet, adamw, loader, schedule = accelerator.prepare(unet, adamw, loader, schedule)
    ema.to(accelerator.device)
    accelerator.init_trackers("train")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[options.mixed_precision]

    # 2. The loop
    unet.train()
    losses, optimizer_steps, images, first_at, since = [], 0, 0, None, time.perf_counter()
    with tqdm(total=options.steps // options.accumulate) as bar:
        for step, batch in enumerate(islice(forever(loader), options.steps), start=1):
            x0 = batch["input"].to(dtype)
            eps = torch.randn(x0.shape, dtype=dtype, device=x0.device)
            t = torch.randint(noising.config.num_train_timesteps, (len(x0),), device=x0.device)
            x_t = noising.add_noise(x0, eps, t)
            with accelerator.accumulate(unet):
                loss = F.mse_loss(unet(x_t, t).sample.float(), eps.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                adamw.step()
                schedule.step()
                adamw.zero_grad()
            if accelerator.sync_gradients:
                ema.step(unet.parameters())
                optimizer_steps += 1
                bar.update(1)
            logs = {"loss": loss.detach().item(), "lr": schedule.get_last_lr()[0], "step": optimizer_steps}
            logs["ema_decay"] = ema.cur_decay_value
            bar.set_postfix(**logs)
            accelerator.log(logs, step=optimizer_steps)
            losses.append(logs["loss"])
            first_at = first_at or time.perf_counter() - BEGAN
            images += len(x0)
            if step == options.warmup:
                wait_for(accelerator.device)
                images, since = 0, time.perf_counter()
    wait_for(accelerator.device)
    seconds = time.perf_counter() - since
    accelerator.end_training()

    # 3. Export the EMA weights
    if options.save:
        ema.copy_to(unet.parameters())
        DDPMPipeline(accelerator.unwrap_model(unet), noising).save_pretrained(options.save)
    return {
        "images_per_second": images / seconds,
        "timed_seconds": seconds,
        "first_step_at_s": first_at,
        "mean_loss": sum(losses) / len(losses),
        "losses": losses,
        "mixed_precision": options.mixed_precision,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a diffusers folder")
    parser.add_argument("--data", required=True, help="a folder of images")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--steps", type=int, default=28, help="micro-batches")
    parser.add_argument("--warmup", type=int, default=4, help="micro-batches before the clock starts")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--lr-warmup-steps", type=int, default=500)
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="bf16")
    parser.add_argument("--num-workers", type=int, default=0, help="decoding processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", help="folder for the trained model, with its EMA weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        print_record("train", torch.device(options.device), train(options, scratch))


if __name__ == "__main__":
    main()
