"""The one exception that means: the user can mend this, and here is how; and the checks that most keys need."""

from pathlib import Path


class UserError(Exception):
    """One or two sentences that name the key, file or value and say what to do. Ends with exit code 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or its class where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def require_whole(key: str, value: object, least: int = 1) -> None:
    """Refuse, by its key, a value that is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value} must be a whole number, at least {least}.")


def require_path(key: str, value: object) -> Path:
    """A path as the user wrote it, with ~ for a home; refuses, by its key, what can be none."""
    try:
        path = Path(str(value)).expanduser()
        path.exists()  # asks the system whether it can be a name at all
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~someone who has no home here
        shown = ascii(str(value))[1:-1]
        raise UserError(f"{key}={shown[:100]}{'...' * (len(shown) > 100)} cannot be a path: {error}"[:400]) from error
    return path
