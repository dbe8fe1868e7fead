"""Weighting schemes as words: "rlo", "avw:signal=dispersion:temperature=2"."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from scalewise.errors import UsageError
from scalewise.weighting import Scheme, scheme_class, scheme_names


def parse_scheme(words: str) -> Scheme:
    """Build a scheme from its name and arguments.

    Args:
        words: `name[:argument=value]...`; values are numbers, true, false or names; lists are
            joined by "+".

    Returns:
        The scheme.

    Raises:
        UsageError: for an unknown name or argument, with the nearest known one, or a value that the
            scheme refuses.
    """
    name, *pairs = words.split(":")
    names = list(scheme_names())
    if name not in names:
        raise UsageError(f"--scheme: no scheme {name!r}{_hint(name, names)}")
    kind = scheme_class(name)
    parameters = inspect.signature(kind).parameters.values()
    known = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--scheme {words}: {pair!r} is no argument=value")
        if key not in known:
            raise UsageError(f"--scheme {words}: {name} has no argument {key!r}{_hint(key, known)}")
        if key == "actions":
            arguments[key] = [parse_scheme(action) for action in value.split("+")]
        else:
            arguments[key] = _value(value)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--scheme {words}: {error}") from None


def _value(text: str) -> float | bool | str | list[Any]:
    if "+" in text:
        return [_value(part) for part in text.split("+")]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return (
        f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known) or 'none'}"
    )
