"""Any function of the user's as an energy: loading it from a file, and naming file and line when it goes wrong."""

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from chrysalis.sampling.guidance.energies import Energy
from chrysalis.system.errors import UserError
from chrysalis.system.user_code import described, failed_at, load_module


class Function:
    """A callable given as "path/to/file.py:name" or "package.module:name". arguments: what it must be callable with.

    key: what the user set it by. may_be_made: a function without arguments is called for the callable.
    Raises UserError, with file and line, for everything that the user's code does wrong.
    """

    def __init__(self, reference: str, arguments: str, key: str, may_be_made: bool = False):
        self.key = key
        place, _, name = str(reference).rpartition(":")
        if not place or not name:
            raise UserError(f"{key}={reference} must be path/to/file.py:name or package.module:name.")
        module = load_module(place, key, f"chrysalis_user_{Path(place).stem}")
        self.call = getattr(module, name, None)
        self.file = inspect.getsourcefile(module) or place
        if not callable(self.call):
            raise UserError(f"{key}={reference}: there is no function {name} in {place}.")
        self.where = f"{self.file}:{_line(self.call)}"
        if may_be_made and (inspect.isclass(self.call) or not inspect.signature(self.call).parameters):
            self.call = self()
        try:
            inspect.signature(self.call).bind(*arguments.split(", "))
        except TypeError as error:
            signature = f"{name}{inspect.signature(self.call)}"
            raise UserError(f"{self.where}: {signature} must be callable as {name}({arguments}).") from error

    def __call__(self, *values):
        try:
            return self.call(*values)
        except (Exception, SystemExit) as error:
            raise UserError(f"{failed_at(error, Path(self.file), self.where)}: {described(error)}") from error

    def returned(self, value: object, shape: tuple[int | None, ...], what: str) -> torch.Tensor:
        """value if it is a tensor of this shape (None: any number there)."""
        given = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        fits = isinstance(given, tuple) and len(given) == len(shape)
        if not fits or any(asked not in (None, has) for asked, has in zip(shape, given, strict=True)):
            asked = "[" + ", ".join("K" if n is None else str(n) for n in shape) + "]"
            raise UserError(f"{self.where}: must return {what} of shape {asked}, and returned {_listed(given)}.")
        return value


def _line(function: Callable) -> int:
    function = inspect.unwrap(getattr(function, "func", function))
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code.co_firstlineno if code else 1


def _listed(given) -> str:
    return str(list(given)) if isinstance(given, tuple) else given


class Custom(Energy):
    """A loss(x0, t, cond) -> [B] of the user's: x0 float [B, 3, H, W], about [-1, 1]; t [B]; cond None or a mapping."""

    def __init__(self, function: str, **how):
        super().__init__(**how)
        self.function = Function(function, "x0, t, cond", "guidance.function")
        self.where = self.function.where

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        return self.function.returned(self.function(x0, t, cond), (len(x0),), "one loss an image, a tensor")

    def name(self) -> str:
        return self.where


class Classifier(Energy):
    """-log p(label | image) of any classifier (Dhariwal & Nichol 2021): on x_t with at=noisy, else on x0.

    model: "file.py:name" of a callable (images [B, 3, H, W] in [-1, 1], t [B]) -> logits [B, K]; or of a function
    without arguments that returns such a callable, for instance a torch module with its weights loaded.
    """

    def __init__(self, model: str, label: int, **how):
        super().__init__(**how)
        self.function = Function(model, "images, t", "guidance.classifier.model", may_be_made=True)
        self.where, self.label = self.function.where, label
        if isinstance(self.function.call, torch.nn.Module):
            self.function.call.requires_grad_(False).eval()

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        if isinstance(self.function.call, torch.nn.Module):
            self.function.call.to(x0.device)
        logits = self.function.returned(self.function(x0, t), (len(x0), None), "logits, a tensor")
        if not isinstance(self.label, int) or not 0 <= self.label < logits.shape[1]:
            raise UserError(f"guidance.classifier.label={self.label} must be a class from 0 to {logits.shape[1] - 1}.")
        return -F.log_softmax(logits.float(), dim=1)[:, self.label]

    def name(self) -> str:
        return self.where
