"""Errors that the user can fix, the checks that most keys need, and what other exceptions say."""

from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """One or two sentences that name the key, file or value and say what to do. The program exits with code 2."""


def require_path(key: str, value: object) -> Path:
    """Return the path that `key` was set to, with ~ expanded; raise UserError if it cannot be a path."""
    try:
        path = Path(str(value)).expanduser()
        path.exists()  # the operating system decides whether it can be a name at all
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~someone who has no home here
        shown = ascii(str(value))[1:-1]
        shown = f"{key}={shown[:100]}{'...' * (len(shown) > 100)}"
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{shown} cannot be a path ({why}): correct it.") from error
    return path


def did_you_mean(close: Sequence[str]) -> str:
    """How a sentence on an unknown name ends: with the first of the known names that are close to it, if any is."""
    return f": did you mean {close[0]}?" if close else "."


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, up to 300 characters without a full stop; its class if it is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def causes(error: BaseException | None) -> list[BaseException]:
    """An exception and those that it was raised from, the outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
