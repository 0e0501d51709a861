"""The one exception that means: the user can mend this, and here is how."""


class UserError(Exception):
    """One or two sentences that name the key, file or value and say what to do. Ends with exit code 2."""
