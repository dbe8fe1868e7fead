"""Says in plain words what is wrong with the given options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_VALUE = re.compile(r'.*[Kk]ey "(\w+)": .*(?:Got|Given) value: (.*)')

_OTHERS = {
    r"argument (--\w+): expected one argument": r"\1 needs a value after it",
    r"the following arguments are required: (.*)": r"missing: \1",
    r'Parser key "config": File does not exist: (.*)': r"--config: there is no file \1",
    r"Problems parsing config: (.*)": r"--config: the file is not valid YAML: \1",
    r"Unexpected config: .*": "--config: the file has no lines such as 'epochs: 12'",
}


def types_of(kinds: Iterable[type]) -> dict[str, Any]:
    """The type of each option by name; the options are the fields of these dataclasses."""
    return {name: kind for owner in kinds for name, kind in get_type_hints(owner).items()}


def explain(
    message: str, types: Mapping[str, Any], options: Collection[str], dashes: str = "--"
) -> str:
    """Say what jsonargparse found wrong, and suggest the closest name or value.

    Args:
        message: The message of jsonargparse.
        types: The type of each option's value, by the option's name.
        options: Names of all options.
        dashes: Text before the name of an option.

    Returns:
        One line of text.

    Examples:
        >>> from scalewise.lab.mistakes import explain
        >>> explain('Parser key "lr": Expected a float. Got value: big', {"lr": float}, ["lr"])
        "--lr must be a number, not 'big'"
        >>> explain("unrecognized arguments: --epoks 3", {}, ["epochs", "ema"])
        'there is no option --epoks; did you mean --epochs?'
    """
    message = " ".join(message.split())
    wrong = _VALUE.fullmatch(message)
    if wrong and wrong[1] in types:
        return f"{dashes}{wrong[1]} must be {_wanted(types[wrong[1]], wrong[2])}"
    if unknown := re.match(r"[Uu]nrecognized arguments: (.*)", message):
        return _unknown(unknown[1], options)
    if key := re.fullmatch(r"Option '([^']+)' is not accepted", message):
        return _no_option(dashes, key[1], options)
    for pattern, words in _OTHERS.items():
        if found := re.match(pattern, message):
            return found.expand(words)
    return message


def _wanted(kind: Any, value: str) -> str:
    """Says which values this type allows, and which value was given."""
    parts = (kind,) if get_origin(kind) in (None, Literal) else get_args(kind)
    choices = [str(choice) for part in parts for choice in _choices(part)]
    words = [_WORDS.get(p, "a list") for p in parts if not _choices(p) and p is not NoneType]
    wanted = " or ".join([*words, *choices]) if words else f"one of {', '.join(choices)}"
    close = difflib.get_close_matches(value, choices, n=1)
    return f"{wanted}, not {value!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _unknown(words: str, options: Collection[str]) -> str:
    """The message for words that no option takes."""
    names = re.findall(r"(?<!\S)(--?)([A-Za-z][\w-]*)", words)
    if names:
        return "; ".join(_no_option(dashes, name, options) for dashes, name in names)
    return f"{words!r} belongs to no option" + "; --data names the data" * ("data" in options)


def _no_option(dashes: str, name: str, options: Collection[str]) -> str:
    plain = name.lower().replace("-", "_")
    close = [option for option in options if option.startswith(plain)]
    close = close or difflib.get_close_matches(plain, options, n=1)
    before = "--" if dashes else ""
    hint = f"; did you mean {' or '.join(before + option for option in close)}?" if close else ""
    return f"there is no option {dashes}{name}{hint}"
