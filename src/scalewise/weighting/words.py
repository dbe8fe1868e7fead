"""Schemes as words: "rlo", "avw:signal=dispersion:temperature=2"."""

from __future__ import annotations

import difflib
import inspect
import re
from typing import Any

from torch import nn

from scalewise.default import GIVEN
from scalewise.weighting.scheme import (
    FunctionScheme,
    Scheme,
    SchemeLike,
    scheme_class,
    scheme_names,
)
from scalewise.weighting.simple import Given

_INNER = re.compile(r"\((.*)\)$")


def as_scheme(spec: SchemeLike) -> Scheme:
    """Resolve words, a scheme or a plain function.

    Raises:
        ValueError: words that `scheme_from_words` refuses.
        TypeError: a class instead of an instance, or something that is none of the three.
    """
    if isinstance(spec, str):
        return scheme_from_words(spec)
    if isinstance(spec, Scheme):
        return spec
    if isinstance(spec, type):
        raise TypeError(f"got the class {spec.__name__}; pass an instance: {spec.__name__}(...)")
    if callable(spec) and not isinstance(spec, nn.Module):
        return FunctionScheme(spec)
    raise TypeError(
        "a scheme is a name, a Scheme or a function (current, previous) -> weights, "
        f"not {type(spec).__name__}"
    )


def scheme_from_words(words: str) -> Scheme:
    """Build a scheme from its name and arguments.

    Args:
        words: `name[:argument=value]...`; values are numbers, true, false or names; lists are
            joined by "+". Arguments of a scheme in a list stand in parentheses:
            "rlo:actions=equal+avw(invert=true:strength=1)".

    "class:platelet=2:RBC=0.5" and "size:small=1.5" are given weights, by the names of the groups.

    Returns:
        The scheme.

    Raises:
        ValueError: for an unknown name or argument, with the nearest known one, or a value that the
            scheme refuses.

    Examples:
        >>> from scalewise.weighting import scheme_from_words
        >>> scheme_from_words("share:power=0.25").name
        'share-0.25'
        >>> scheme_from_words("rlo:actions=equal+share").action_names
        ('equal', 'share')
        >>> scheme_from_words("sharp")
        Traceback (most recent call last):
            ...
        ValueError: unknown scheme 'sharp'; did you mean 'share'?
    """
    name, *pairs = _split(words, ":")
    if name in GIVEN:
        return _given(words, name, pairs)
    names = list(scheme_names())
    if name not in names:
        raise ValueError(f"unknown scheme {name!r}{_hint(name, names)}")
    kind = scheme_class(name)
    parameters = inspect.signature(kind).parameters.values()
    known = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [p.name for p in parameters if p.name in known and p.default is p.empty]
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{words}: {pair!r} is no argument=value")
        if key not in known:
            raise ValueError(f"{words}: {name} has no argument {key!r}{_hint(key, known)}")
        if key == "actions":
            actions = [_INNER.sub(r":\1", action) for action in _split(value, "+")]
            arguments[key] = [scheme_from_words(action) for action in actions]
        else:
            arguments[key] = _value(value)
    for key in needed:
        if key not in arguments:
            raise ValueError(
                f"{words}: {name} needs {key}: '{name}:{key}=...', or pass {kind.__name__}(...)"
            )
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{words}: {error}") from None


def _given(words: str, by: str, pairs: list[str]) -> Scheme:
    """Weights by the groups' own names, which may hold anything but ":" and "="."""
    weights: dict[str, float] = {}
    for pair in pairs:
        group, equals, value = pair.rpartition("=")
        try:
            weights[group] = float(value)
        except ValueError:
            equals = ""
        if not equals or not group:
            raise ValueError(f"{words}: {pair!r} is no group=weight, such as {by}:{pair}=2")
    if not weights:
        raise ValueError(f"{words}: name a group and its weight, such as {by}:NAME=2")
    return Given(by, weights)


def _split(text: str, separator: str) -> list[str]:
    """Split at the separators that do not stand in parentheses."""
    return re.split(rf"{re.escape(separator)}(?![^(]*\))", text)


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
