"""Decoding of JSON piece by piece, through a window of the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scalewise.lab.data.faults import BadData

ROOM = 2**24  # most characters of one row: outlines of large images take a few million
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass
class Cursor:
    """A place in a JSON text, which is decoded through a window.

    Attributes:
        text: the whole text.
        start: where the window begins in the text, in characters.
        window: the part of the text that is decoded now.
        place: the current place in the window, in characters.
    """

    text: str
    start: int = 0
    window: str = ""
    place: int = 0

    def next(self) -> str:
        """Pass over white space and return the next character; "" at the end of the text."""
        self.place = _place_after_space(self.window, self.place)
        while self.place == len(self.window) and self._slide():
            self.place = _place_after_space(self.window, self.place)
        return self.window[self.place : self.place + 1]

    def take(self, letters: str) -> str:
        """Pass over the next character and return it; it has to be one of `letters`.

        Raises:
            json.JSONDecodeError: it is another character.
        """
        found = self.next()
        if not found or found not in letters:
            wanted = " or ".join(f"'{letter}'" for letter in letters)
            raise json.JSONDecodeError(f"Expecting {wanted}", self.text, self.start + self.place)
        self.place += 1
        return found

    def value(self) -> Any:
        """Decode one value and pass over it.

        Raises:
            json.JSONDecodeError: there is no valid value.
            BadData: it is not valid, or longer than `ROOM`.
        """
        self.next()
        while True:
            rest = len(self.window) - self.place
            try:
                value, end = _DECODER.raw_decode(self.window, self.place)
            except json.JSONDecodeError as error:
                if self.place == 0 and rest == ROOM and self._more():
                    where = f"character {self.start + 1}"
                    raise BadData(f"the value at {where} is broken or too large") from None
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
        """Move the window to begin at the current place; return False if it shows nothing new."""
        if not self._more() or (self.window and self.place == 0):
            return False
        self.start += self.place
        self.window, self.place = self.text[self.start : self.start + ROOM], 0
        return True


def _place_after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def keys(cursor: Cursor) -> Iterator[str]:
    """Yield the keys of an object; the cursor then stands before the value of that key."""
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


def items(cursor: Cursor) -> Iterator[Any]:
    """Yield the items of a list, decoded."""
    cursor.take("[")
    if cursor.next() == "]":
        cursor.take("]")
        return
    while True:
        yield cursor.value()
        if cursor.take(",]") == "]":
            return


def pass_over(cursor: Cursor) -> None:
    """Pass over a value without keeping it."""
    opening = cursor.next()
    if opening == "[":
        for _ in items(cursor):
            pass
    elif opening == "{":
        for _ in keys(cursor):
            cursor.value()
    else:
        cursor.value()
