"""Checks of the values in COCO rows: JSON does not fix their types."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from scalewise.lab.data.box_faults import Box
from scalewise.lab.data.faults import FaultFound
from scalewise.lab.data.text import shown

Row = dict[str, Any]
Check = type[Any] | Callable[[object], object]
_LARGEST = 2**63 - 1


def any_id(value: object) -> object:
    """Return an id that is only compared with other ids: any number or text.

    Raises:
        ValueError: the value is neither; the message says so.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("is neither a number nor text")
    return value


def whole_number(value: object) -> int:
    """Return a whole number that fits into 64 bits; 5.0 counts as 5.

    Raises:
        ValueError: the value is not one; the message says why.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("is not a whole number")
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError("does not fit into 64 bits")
    return value


def is_number(value: object) -> bool:
    """Return whether a value is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def flag(value: object) -> bool | None:
    """Return a mark written as 0, 1, true, false or null (false); None for anything else."""
    if value is None:
        return False
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None


def corners(bbox: list[Any]) -> Box | None:
    """Return (x1, y1, x2, y2) of [x, y, width, height]; None if these are not four numbers."""
    if len(bbox) != 4 or not all(is_number(value) for value in bbox):
        return None
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # a number of hundreds of digits
        x = y = width = height = math.inf
    return (x, y, x + width, y + height)


def first_repeated(names: Collection[str]) -> str | None:
    """The first name that occurs more than once, if any."""
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), None)


def class_name(written: str) -> str:
    """Return a class name without blanks around it, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", written).strip()


def name_fault(name: str) -> str | None:
    """Return what is wrong with a class name, or None."""
    if not name.strip():
        return "is empty"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half of a character (a lone surrogate), which no file can store"
    return None


def read_row(row: Any, fields: Mapping[str, Check]) -> Row:
    """Return the named values of a row.

    Args:
        row: a row as read from JSON.
        fields: key to `str`, `list`, or a function that checks the value.

    Raises:
        FaultFound: a value is missing or of the wrong type.
    """
    if not isinstance(row, dict):
        raise FaultFound("missing field", "lacks everything: it is not a JSON object")
    missing = [
        f"'{key}' ({kind.__name__ if isinstance(kind, type) else 'int'})"
        for key, kind in fields.items()
        if row.get(key) is None
    ]
    if missing:
        raise FaultFound("missing field", f"lacks {', '.join(missing)}")
    values: Row = {}
    for key, kind in fields.items():
        try:
            values[key] = _typed(row[key], kind) if isinstance(kind, type) else kind(row[key])
        except ValueError as wrong:
            about = "bad id" if key.endswith("id") else "bad value"
            raise FaultFound(about, f"its {key} {shown(row[key])} {wrong}") from None
    return values


def _typed(value: object, kind: type) -> object:
    if not isinstance(value, kind):
        raise ValueError(f"is not of type {kind.__name__}")
    return value
