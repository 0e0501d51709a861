"""The model card that travels with an exported pipeline."""

from pathlib import Path

from chrysalis.system import hub
from chrysalis.system.public import public

PLAIN = """from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("path/to/this/folder")
pipeline(batch_size=4).images[0].save("drawn.png")"""
TOLD = """from diffusers import DiffusionPipeline

folder = "path/to/this/folder"
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipeline({example}).images[0].save("drawn.png")"""


def _example(told: dict[str, str]) -> str:
    """The arguments of a call: what can be written in a line."""
    if not told:
        return "batch_size=4"
    first = {"label": told.get("label", "").split(", ")[0], "text": "a caption"}
    return "".join(f'{name}="{first[name]}", ' for name in told if name in first) + "guidance_scale=2"


def text(
    results: dict,
    change: str,
    origin: str | None,
    data: str,
    size: tuple[int, int],
    told: dict[str, str] | None = None,
    own_pipeline: bool = False,
) -> str:
    """Markdown with the before/after strip, what it was made of and with, and how to draw from it.

    change: how the validation loss compares, such as "12 % lower than". told: what a conditional model can be told,
    with what is known of each. own_pipeline: the folder brings a file that it is to be drawn with.
    """
    height, width = size
    knows = "".join(f"\n- **{name}**: {what}" for name, what in (told or {}).items())
    knows = f"\nIt is told:\n{knows}\n" if told else ""
    gap = results.get("val_loss_condition_shuffled")
    heard = f"\n| validation loss with the condition of another image | {gap:.5f} |" if gap is not None else ""
    code = TOLD.format(example=_example(told or {})) if own_pipeline else PLAIN
    title = Path(data).name if Path(data).is_dir() else data
    was, base = "trained from scratch", ""
    if origin:
        was = f"fine-tuned from `{public(origin)}`" + (" (bundled with Chrysalis)" if _is_bundled(origin) else "")
        base = _base_of_hub(origin) if hub.is_id(origin) else ""
    before = "the base model" if origin else "the untrained model"
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
{base}---
# {title}, {width} x {height} px

![before and after](before_after.png)

Samples of {before} and, from the same seeds, of this one; below them training images.

A diffusion UNet {was} on {title} by Chrysalis, with the EMA weights of
step {results["best_step"]} of {results["steps"]}.
{knows}
| | |
|---|---|
| validation loss | {results["val_loss"]:.5f}, {change} {before}'s {results["base_val_loss"]:.5f} |{heard}
| training loss at the end | {results["final_train_loss"]:.5f} (moving average, same scale) |
| verdict | {results["verdict"]} |
| training speed | {results["images_per_second"]} images/s, {results["precision"]} |
| time | {results["seconds"]:.0f} s, {results["steps"]} optimizer steps |
| hardware | {results["hardware"]} |
| versions | {", ".join(f"{k} {v}" for k, v in results["versions"].items())} |

Made by

```
{chr(10).join(public(command) for command in [results["command"], *results["continued_by"]])}
```

Drawn from with stock diffusers:

```python
{code}
```
"""


def _base_of_hub(origin: str) -> str:
    """The lines of the card's settings that name a repository of the hub, and its revision where one was asked for."""
    base_model, revision = hub.split_revision(origin)
    return f"base_model: {base_model}\n" + (f"base_model_revision: {revision}\n" if revision else "")


def _is_bundled(origin: str) -> bool:
    return public(origin).startswith("assets/")
