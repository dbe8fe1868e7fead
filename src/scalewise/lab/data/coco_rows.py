"""The rows of a COCO annotation file, decoded one at a time to save memory.

Only the keys in use are kept; outlines, the largest part of most files, are dropped at once. A file
that is not COCO is refused early: 100 MB of JSON can become gigabytes of Python objects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalewise.lab.data.encodings import read_text
from scalewise.lab.data.faults import BadData
from scalewise.lab.data.json_cursor import ROOM, Cursor, items, keys, pass_over

_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
_USED = _NEEDED | {"annotations": (*_NEEDED["annotations"], "area", "iscrowd")}
_MOST_KEYS = 1000  # keys of the outermost object; COCO has five
_MOST_BROKEN = 1000  # rows that lack a needed key; more are refused if they are the majority


def read_tables(file: Path) -> dict[str, list[Any]]:
    """Read the images, annotations and categories of a file.

    Args:
        file: the annotation file.

    Returns:
        The three lists. Rows that are objects keep only the keys in use; other rows stay as they
        are.

    Raises:
        BadData: the file cannot be read, or is not a COCO file.
    """
    try:
        tables = _tables(Cursor(read_text(file)))
    except BadData as error:
        raise BadData(f"{file}: not a COCO annotation file: {error}") from None
    except (ValueError, OSError) as error:
        raise BadData(f"{file}: cannot be read as JSON: {error}") from None
    except (RecursionError, MemoryError) as error:
        why = "not enough memory" if isinstance(error, MemoryError) else "nested too deeply"
        raise BadData(f"{file}: cannot be read as JSON: {why}") from None
    for key in _NEEDED:
        if key not in tables:
            raise BadData(f"{file}: not a COCO annotation file: it has no list '{key}'")
    return tables


def _tables(cursor: Cursor) -> dict[str, list[Any]]:
    if cursor.next() == "[":
        raise BadData("it is a list, not an object")
    if len(cursor.text) > ROOM:  # a quick look: decoding it may take minutes
        for key in _NEEDED:
            if f'"{key}"' not in cursor.text:
                raise BadData(f"it has no list '{key}'")
    tables: dict[str, list[Any]] = {}
    seen: set[str] = set()
    for key in keys(cursor):
        if key in seen and key in _NEEDED:
            raise BadData(f"it has '{key}' twice")
        seen.add(key)
        if len(seen) > _MOST_KEYS:
            raise BadData(f"it has more than {_MOST_KEYS} keys")
        if key in _NEEDED and cursor.next() == "[":
            tables[key] = _rows(cursor, key)
        else:
            pass_over(cursor)
    if cursor.next():
        raise json.JSONDecodeError("Extra data", cursor.text, cursor.start + cursor.place)
    return tables


def _rows(cursor: Cursor, key: str) -> list[Any]:
    needed, used = _NEEDED[key], _USED[key]
    rows: list[Any] = []
    broken = 0
    for row in items(cursor):
        if isinstance(row, dict):
            rows.append({name: row[name] for name in used if name in row})
            broken += any(name not in row for name in needed)
        else:
            rows.append(row)
            broken += 1
        if broken > _MOST_BROKEN and 2 * broken > len(rows):
            raise BadData(
                f"of the first {len(rows)} entries of '{key}', {broken} lack one of "
                + ", ".join(f"'{name}'" for name in needed)
            )
    return rows
