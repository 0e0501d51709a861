"""The user's own function as an energy: loading it from a file, and naming file and line when it fails."""

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from chrysalis.sampling.guidance.energies import Energy
from chrysalis.system.errors import UserError
from chrysalis.system.user_code import described, failed_at, load_module


class Function:
    """A callable given as "path/to/file.py:name" or "package.module:name".

    Raises UserError, with file and line, for everything that the user's code does wrong.

    Args:
        reference: the file or module and the name in it.
        arguments: what it must be callable with, such as "x0, t, cond".
        key: the setting's name, for messages.
        may_be_factory: a class, or a function without arguments, is called first and returns the callable.
    """

    def __init__(self, reference: str, arguments: str, key: str, may_be_factory: bool = False):
        place, _, name = str(reference).rpartition(":")
        if not place or not name:
            raise UserError(f"{key}={reference} must be path/to/file.py:name or package.module:name.")
        module = load_module(place, key, f"chrysalis_user_{Path(place).stem}")
        self.file = inspect.getsourcefile(module) or place
        call = getattr(module, name, None)
        if not callable(call):
            raise UserError(f"{key}={reference}: there is no function {name} in {place}. Correct the name.")
        self.call: Callable = call
        self.where = f"{self.file}:{_line(call)}"
        if may_be_factory and (inspect.isclass(call) or not inspect.signature(call).parameters):
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
            raise UserError(f"{failed_at(error, Path(self.file)) or self.where}: {described(error)}") from error

    def require_shape(self, value: object, what: str, n: int, *free: str) -> torch.Tensor:
        """Return value if it is a tensor of shape [n, *free], else raise; `free` names dimensions of any size."""
        if isinstance(value, torch.Tensor) and value.dim() == 1 + len(free) and len(value) == n:
            return value
        shape = ", ".join([str(n), *free])
        found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UserError(f"{self.where}: must return {what} of shape [{shape}], and returned {found}.")


def _line(function: Callable) -> int:
    function = inspect.unwrap(getattr(function, "func", function))
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code.co_firstlineno if code else 1


class Custom(Energy):
    """A loss(x0, t, cond) -> [B] of the user's: x0 float [B, 3, H, W], about [-1, 1]; t [B]; cond None or a mapping."""

    def __init__(self, function: str, **settings):
        super().__init__(**settings)
        self.function = Function(function, "x0, t, cond", "guidance.function")
        self.where = self.function.where

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        return self.function.require_shape(self.function(x0, t, cond), "one loss per image, a tensor", len(x0))


class Classifier(Energy):
    """-log p(label | image) of any classifier (Dhariwal & Nichol 2021): on x_t with at=noisy, else on x0.

    model: "file.py:name" of a callable (images [B, 3, H, W] in [-1, 1], t [B]) -> logits [B, K]; or of a function
    without arguments that returns such a callable, for instance a torch module with its weights loaded.
    """

    def __init__(self, model: str, label: int, **settings):
        super().__init__(**settings)
        self.function = Function(model, "images, t", "guidance.classifier.model", may_be_factory=True)
        self.where, self.label = self.function.where, label
        if isinstance(self.function.call, torch.nn.Module):
            self.function.call.requires_grad_(False).eval()

    def loss(self, x0: torch.Tensor, t: torch.Tensor, cond) -> torch.Tensor:
        if isinstance(self.function.call, torch.nn.Module):
            self.function.call.to(x0.device)
        logits = self.function.require_shape(self.function(x0, t), "logits, a tensor", len(x0), "K")
        if not 0 <= self.label < logits.shape[1]:
            raise UserError(f"guidance.classifier.label={self.label} must be a class from 0 to {logits.shape[1] - 1}.")
        return -F.log_softmax(logits.float(), dim=1)[:, self.label]
