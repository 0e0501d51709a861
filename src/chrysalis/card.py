"""The model card that travels with an exported pipeline."""


def text(results: dict, origin: str | None, data: str, size: tuple[int, int]) -> str:
    """Markdown with the before/after strip, what it was made of and with, and how to draw from it."""
    height, width = size
    was = f"fine-tuned from `{origin}`" if origin else "trained from scratch"
    above = "Above: the same seeds drawn by the untouched base model, and by this one.\n\n" if origin else ""
    base = f"base_model: {origin}\n" if origin else ""
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
{base}---
# {data}, {width} x {height} px

![before and after](before_after.png)

{above}A diffusion UNet {was} on {data} by Chrysalis, with the averaged (EMA) weights of
step {results["best_step"]} of {results["steps"]}.

| | |
|---|---|
| held-out loss | {results["held_out_loss"]:.5f} (before training: {results["base_held_out_loss"]:.5f}) |
| final training loss | {results["final_training_loss"]:.5f} (moving average) |
| training speed | {results["images_per_second"]} images/s, {results["precision"]} |
| time | {results["seconds"]:.0f} s, {results["steps"]} optimizer steps |
| hardware | {results["hardware"]} |
| versions | {", ".join(f"{k} {v}" for k, v in results["versions"].items())} |

Made by

```
{chr(10).join([results["command"], *results["continued_by"]])}
```

Drawn from with stock diffusers:

```python
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("path/to/this/folder")
pipeline(batch_size=4).images[0].save("drawn.png")
```
"""
