"""Weighting schemes as options: words in, errors that name the option out."""

from __future__ import annotations

from scalewise.errors import UsageError
from scalewise.weighting import Scheme, scheme_from_words


def parse_scheme(words: str) -> Scheme:
    """Build a scheme from an option's value.

    Raises:
        UsageError: for words that `scheme_from_words` refuses.
    """
    try:
        return scheme_from_words(words)
    except ValueError as error:
        raise UsageError(f"--scheme: {error}") from None
