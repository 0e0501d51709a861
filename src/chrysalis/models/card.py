"""The model card of an exported pipeline; card.md.j2 is its text."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from chrysalis.system import hub
from chrysalis.system.records import public

_environment = Environment(
    loader=PackageLoader("chrysalis", "models"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def text(
    results: dict,
    change: str,
    origin: str | None,
    data: str,
    size: tuple[int, int],
    conditions: dict[str, str] | None = None,
    own_pipeline: bool = False,
) -> str:
    """Return the card as Markdown: the before/after image, how the model was trained, and how to sample from it.

    Args:
        results: content of results.json.
        change: how the validation loss compares with the base model's, such as "12 % lower than".
        origin: folder or hub id of the base model; None for training from scratch.
        data: name of the training set, or its folder.
        size: (height, width) in pixels.
        conditions: what a conditional model is conditioned on, with a description of each.
        own_pipeline: whether the folder brings a pipeline file, which it is to be loaded with.
    """
    hub_id, revision = hub.split_revision(origin) if origin and hub.is_id(origin) else (None, None)
    return _environment.get_template("card.md.j2").render(
        results=results,
        change=change,
        origin=origin and public(origin),
        base_model=hub_id,
        revision=revision,
        title=Path(data).name if Path(data).is_dir() else data,
        size=size,
        conditions=conditions or {},
        own_pipeline=own_pipeline,
        example=_example(conditions or {}),
        commands=[public(command) for command in [results["command"], *results["continued_by"]]],
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    )


def _example(conditions: dict[str, str]) -> str:
    """Return arguments for a call of the pipeline, with the conditions that fit in a line."""
    if not conditions:
        return "batch_size=4"
    values = {"label": conditions.get("label", "").split(", ")[0], "text": "a caption"}
    return "".join(f'{name}="{values[name]}", ' for name in conditions if name in values) + "guidance_scale=2"
