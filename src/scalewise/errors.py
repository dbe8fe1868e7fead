"""Errors whose message is for the user, without a traceback."""


class UserError(Exception):
    """Says what was wrong, where, and what to do."""


class UsageError(UserError):
    """An option that does not exist, or a value that it cannot have."""
