"""The base of every error whose message is meant for the user and needs no traceback."""


class UserError(Exception):
    """Says what was wrong, where, and what to do."""


class UsageError(UserError):
    """Words, keys or values that no option takes."""
