"""The content of the data.yaml of a YOLO data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from scalewise.lab.data.coco_values import class_name, first_repeated, name_fault
from scalewise.lab.data.encodings import read_text
from scalewise.lab.data.faults import BadData, Faults
from scalewise.lab.data.text import shown

_LARGEST = 2**21  # most bytes of a YAML file; PyYAML reads about 200,000 per second
_NOTHING = ("", "~", "null", "Null", "NULL")


class _Loader(yaml.BaseLoader):
    """Keeps values as they are written, so that `no` is a class name, not false."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that occurs twice: one of its values would be lost."""
        keys = [str(key.value) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", node.start_mark
                )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=True)
        return mapping


def load_yaml(file: Path, strict: bool) -> dict[Any, Any]:
    """Return the mapping that a file holds; an empty one for any other file, unless `strict`.

    Raises:
        BadData: `strict` is set and the file holds no mapping.
    """
    try:
        table = yaml.load(read_text(file, _LARGEST), Loader=_Loader)
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        if not strict:
            return {}
        why = " ".join(str(error).split())
        raise BadData(f"{file}: cannot be read as YAML: {why}") from None
    if isinstance(table, dict):
        return table
    if strict:
        raise BadData(f"{file}: not a YOLO data file: it has no 'names' and no splits")
    return {}


def _number(value: object) -> int | None:
    """Return a whole number of at least 0 from its text in YAML, None for anything else."""
    plain = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    return int(str(value)) if plain else None


def class_names_of(file: Path, table: dict[Any, Any], faults: Faults) -> dict[int, str]:
    """Return class id to name, in order of the ids.

    Args:
        file: the data.yaml.
        table: the content of that file.
        faults: gets a fault if `nc` does not fit `names`.

    Raises:
        BadData: the names cannot be used.
    """
    names, count = table.get("names"), _number(table.get("nc"))
    if names is None and count is not None and count < 100_000:
        names = [f"class_{number}" for number in range(count)]
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise BadData(f"{file}: 'names' is neither a list of class names nor ids with names")
    found: dict[int, str] = {}
    for key, name in names.items():
        number = _number(key)
        if number is None:
            raise BadData(
                f"{file}: 'names' has the class id {shown(key)}, not a whole number of at least 0"
            )
        if not isinstance(name, str):
            raise BadData(f"{file}: the name of class {number}, {shown(name)}, is not text")
        if fault := name_fault(name):
            raise BadData(f"{file}: the name of class {number} {fault}")
        found[number] = class_name(name)
    if (twice := first_repeated(found.values())) is not None:
        raise BadData(f"{file}: class {shown(twice)} is named twice")
    if len(found) < len(names):
        raise BadData(f"{file}: a class id of 'names' occurs twice")
    stated = table.get("nc", "")
    if stated not in _NOTHING and count not in (len(found), max(found) + 1):
        what = f"'nc' is {shown(stated)}, but 'names' has {len(found)} classes"
        faults.add("class count", str(file), what)
    return dict(sorted(found.items()))


def keypoints(file: Path, table: dict[Any, Any]) -> int:
    """Return the number of columns of a line with keypoints; 0 without keypoints.

    Raises:
        BadData: `kpt_shape` is not two numbers above 0.
    """
    shape = table.get("kpt_shape")
    if shape is None or (isinstance(shape, str) and shape in _NOTHING):
        return 0
    sizes = [_number(size) for size in shape] if isinstance(shape, list) else []
    if len(sizes) != 2 or not all(sizes):
        raise BadData(f"{file}: 'kpt_shape' {_plain(shape)} is not two numbers such as [17, 3]")
    return 5 + math.prod(size for size in sizes if size)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def is_given(value: object) -> bool:
    """Return whether a key has a value."""
    return bool(value) and not (isinstance(value, str) and value in _NOTHING)
