"""The rows of a COCO annotation file, read one after the other, so that memory holds no more.

What is no COCO file is refused before it is built up: a hundred megabytes of JSON may be gigabytes
of objects. Of each row only what is used stays; outlines, most of an honest file, go at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.text import read_text

_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
_USED = _NEEDED | {"annotations": (*_NEEDED["annotations"], "area", "iscrowd")}
_MOST_KEYS = 1000  # of the file's own object; COCO has five
_MOST_BROKEN = 1000  # rows without what is needed, where they are the larger part
_ROOM = 2**24  # characters of one row: outlines of large images take a few millions
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def read_tables(file: Path) -> dict[str, list[Any]]:
    """Read the images, annotations and categories of a file.

    Args:
        file: the annotation file.

    Returns:
        The three lists; of a row that is an object the keys that are used, any other as it is.

    Raises:
        BadData: when it cannot be read, or is no COCO file.
    """
    try:
        tables = _tables(_Cursor(read_text(file)))
    except BadData as error:
        raise BadData(f"{file}: no COCO annotation file: {error}") from None
    except (ValueError, OSError) as error:
        raise BadData(f"{file}: cannot be read as JSON: {error}") from None
    except (RecursionError, MemoryError) as error:
        raise BadData(f"{file}: cannot be read as JSON: nested too deeply, {error}") from None
    for key in _NEEDED:
        if key not in tables:
            raise BadData(f"{file}: no COCO annotation file: it has no list '{key}'")
    return tables


@dataclass
class _Cursor:
    """A place in a JSON text, of which a window is decoded at a time.

    Attributes:
        text: all of it.
        start: of the window, in characters.
        window: the part that is decoded from.
        place: in the window.
    """

    text: str
    start: int = 0
    window: str = ""
    place: int = 0

    def next(self) -> str:
        """Pass over space, and return the next character; nothing at the end."""
        self.place = _place_after_space(self.window, self.place)
        while self.place == len(self.window) and self._slide():
            self.place = _place_after_space(self.window, self.place)
        return self.window[self.place : self.place + 1]

    def take(self, letters: str) -> str:
        """Pass over one of some characters, and return it.

        Raises:
            json.JSONDecodeError: there is another.
        """
        found = self.next()
        if not found or found not in letters:
            wanted = " or ".join(f"'{letter}'" for letter in letters)
            raise json.JSONDecodeError(f"Expecting {wanted}", self.text, self.start + self.place)
        self.place += 1
        return found

    def value(self) -> Any:
        """Decode one value.

        Raises:
            json.JSONDecodeError: there is none.
            BadData: it is longer than any row.
        """
        self.next()
        while True:
            rest = len(self.window) - self.place
            try:
                value, end = _DECODER.raw_decode(self.window, self.place)
            except json.JSONDecodeError as error:
                if self.place == 0 and rest == _ROOM and self._more():
                    where = f"character {self.start + 1}"
                    raise BadData(f"what begins at {where} is broken or too large") from None
                if not self._slide():
                    at = self.start + error.pos
                    raise json.JSONDecodeError(error.msg, self.text, at) from None
            else:
                if end < len(self.window) or not self._slide():
                    self.place = end
                    return value

    def _more(self) -> bool:
        return self.start + len(self.window) < len(self.text)

    def _slide(self) -> bool:
        """Let the window begin here, where that shows more of the text."""
        if not self._more() or (self.window and self.place == 0):
            return False
        self.start += self.place
        self.window, self.place = self.text[self.start : self.start + _ROOM], 0
        return True


def _place_after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _tables(cursor: _Cursor) -> dict[str, list[Any]]:
    if cursor.next() == "[":
        raise BadData("it is a list, not an object")
    if len(cursor.text) > _ROOM:  # before minutes are spent on it
        for key in _NEEDED:
            if f'"{key}"' not in cursor.text:
                raise BadData(f"it has no list '{key}'")
    tables: dict[str, list[Any]] = {}
    seen: set[str] = set()
    for key in _keys(cursor):
        if key in seen and key in _NEEDED:
            raise BadData(f"it has '{key}' twice")
        seen.add(key)
        if len(seen) > _MOST_KEYS:
            raise BadData(f"it has more than {_MOST_KEYS} keys")
        if key in _NEEDED and cursor.next() == "[":
            tables[key] = _rows(cursor, key)
        else:
            _pass_over(cursor)
    if cursor.next():
        raise json.JSONDecodeError("Extra data", cursor.text, cursor.start + cursor.place)
    return tables


def _keys(cursor: _Cursor) -> Iterator[str]:
    """Yield the keys of an object, the cursor before each one's value."""
    cursor.take("{")
    if cursor.next() == "}":
        cursor.take("}")
        return
    while True:
        if cursor.next() != '"':
            cursor.take('"')
        key = cursor.value()
        cursor.take(":")
        yield key
        if cursor.take(",}") == "}":
            return


def _items(cursor: _Cursor) -> Iterator[Any]:
    """Yield the items of a list, decoded."""
    cursor.take("[")
    if cursor.next() == "]":
        cursor.take("]")
        return
    while True:
        yield cursor.value()
        if cursor.take(",]") == "]":
            return


def _rows(cursor: _Cursor, key: str) -> list[Any]:
    needed, used = _NEEDED[key], _USED[key]
    rows: list[Any] = []
    broken = 0
    for row in _items(cursor):
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


def _pass_over(cursor: _Cursor) -> None:
    """Pass over a value without keeping it."""
    opening = cursor.next()
    if opening == "[":
        for _ in _items(cursor):
            pass
    elif opening == "{":
        for _ in _keys(cursor):
            cursor.value()
    else:
        cursor.value()
