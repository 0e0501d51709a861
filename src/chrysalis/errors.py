"""The one exception that means: the user can mend this, and here is how; and the check that most keys need."""


class UserError(Exception):
    """One or two sentences that name the key, file or value and say what to do. Ends with exit code 2."""


def require_whole(key: str, value: object, least: int = 1) -> None:
    """Refuse, by its key, a value that is not a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value} must be a whole number, at least {least}.")
