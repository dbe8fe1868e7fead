"""Finds damage inside a JPEG that its decoder does not report.

A decoder fills damaged parts with grey or made-up pixels. Found here, mostly without decoding
again: marks that cannot stand among pixel data, restart marks out of order or missing, holes of
zeros, and pixel data that end early. Smaller changes, such as a single bit, mostly leave a valid
file.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

_MARK = re.compile(rb"\xff+([^\x00\xff])")
_INSIDE = re.compile(rb"\xff[^\x00\xff]")
_END, _SCAN, _TABLES, _INTERVAL = 0xD9, 0xDA, 0xC4, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what Pillow decodes
_PROGRESSIVE = 0xC2
# Marks that may follow the pixel data of a scan: tables, another scan, the end, comments.
_AFTER = {_TABLES, _END, _SCAN, 0xDB, 0xDC, _INTERVAL, *range(0xE0, 0xF0), 0xFE}
_HOLE = bytes(32)  # longer than a block of 63 equal coefficients
_WIDE = 50  # least coefficients of a progressive scan: in fewer, equal ones may be a real pattern
_VARIED = 8  # least symbols of a table: fewer may be gradients or tiles, whose blocks are alike
_MORE = b"\xaa" * 64  # pixel data that are valid with any table
_MIDDLE = 128  # value that a decoder gives to a block without data


class _Broken(Exception):
    """The file is damaged; the message says how."""


@dataclass
class _State:
    """What has been read of a file so far.

    Attributes:
        kind: mark of the frame; 0 before it is read.
        size: height and width in pixels.
        sampling: component to its sampling factors, horizontal and vertical.
        first: number of an AC table to the symbol of its all-zero code; 0 for a table with few
            symbols.
        interval: coding units (MCUs) between two restart marks; 0 without restart marks.
        lacking: (component, coefficient) of a progressive image to the number of bits still to
            come.
    """

    kind: int = 0
    size: tuple[int, int] = (0, 0)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    interval: int = 0
    lacking: dict[tuple[int, int], int] = field(default_factory=dict)


def jpeg_damage(data: bytes, decoded: Image.Image) -> str | None:
    """Return what is wrong with the pixel data of a JPEG, or None.

    This takes a small part of the time of decoding. Only if the last pixel of a file that is not
    progressive is plain grey, the file is decoded twice more.

    Args:
        data: the bytes of the file.
        decoded: the image as Pillow loaded it, not turned; whole, or smaller by `draft`.
    """
    try:
        end, kind = _walk(data)
    except _Broken as error:
        return str(error)
    if kind in (0, _PROGRESSIVE) or not end or not _ends_grey(decoded):
        return None
    # at full size: in a smaller image the added bits may change no pixel
    if not np.array_equal(_pixels(data), _pixels(data[:end] + _MORE + data[end:])):
        return "its pixels end early, and the rest is grey"
    return None


def _pixels(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image)


def _walk(data: bytes) -> tuple[int, int]:
    """Read a file mark by mark.

    Returns:
        Where the pixel data of the last scan end (0 if not known), and the mark of the frame.

    Raises:
        _Broken: the pixel data are damaged. Faults before them are left to the decoder.
    """
    state, place, end = _State(), 2, 0
    while True:
        found = _MARK.match(data, place)
        if not found:
            if end and place != len(data):
                raise _Broken("what follows its pixels makes no sense")
            return 0, state.kind
        mark, place = found[1][0], found.end()
        if mark == _END:
            if end and state.kind == _PROGRESSIVE and any(state.lacking.values()):
                raise _Broken("the last of its passes over the pixels are missing")
            return end, state.kind
        try:
            length = int.from_bytes(data[place : place + 2], "big")
            part = data[place + 2 : place + length]
            _read(mark, part, state)
            place += length
            if mark == _SCAN:
                place = end = _scan(data, place, part, state)
        except (IndexError, KeyError, ValueError, struct.error):
            if end:
                raise _Broken("what follows its pixels makes no sense") from None
            return 0, state.kind


def _read(mark: int, part: bytes, state: _State) -> None:
    if mark in _FRAMES:
        state.kind = mark
        state.size = struct.unpack_from(">HH", part, 1)
        for place in range(6, 6 + 3 * part[5], 3):
            state.sampling[part[place]] = (part[place + 1] >> 4, part[place + 1] & 15)
            if mark == _PROGRESSIVE:
                state.lacking |= {(part[place], number): 1 for number in range(64)}
    elif mark == _INTERVAL:
        state.interval = int.from_bytes(part[:2], "big")
    elif mark == _TABLES:
        place = 0
        while place < len(part):
            count = sum(part[place + 1 : place + 17])
            if part[place] >> 4:
                varied = count >= _VARIED
                state.first[part[place] & 15] = part[place + 17] if varied else 0
            place += 17 + count


def _scan(data: bytes, start: int, head: bytes, state: _State) -> int:
    """Check the pixel data of a scan, and return where they end."""
    restarts, end = 0, len(data)
    for mark, place in _marks(data, start):
        if mark not in _RESTARTS:
            while data[place - 1] == 0xFF:  # fill bytes before a mark
                place -= 1
            if mark not in _AFTER:
                raise _Broken(f"a mark that makes no sense (FF {mark:02X}) is among its pixels")
            end = place
            break
        if state.interval and mark != _RESTARTS[restarts % 8]:
            raise _Broken("restart marks among its pixels are missing or out of order")
        restarts += 1
    if state.kind not in _FRAMES:
        return end
    parts = {head[1 + 2 * i]: head[2 + 2 * i] & 15 for i in range(head[0])}
    first, last, left = head[-3], head[-2], head[-1] & 15
    if state.kind == _PROGRESSIVE:
        state.lacking |= {(part, n): left for part in parts for n in range(first, last + 1)}
    if state.interval and restarts < (_blocks(parts, state) - 1) // state.interval:
        raise _Broken("restart marks among its pixels are missing")
    if not state.interval and restarts:
        raise _Broken("restart marks are among its pixels, where none were promised")
    symbols = [state.first.get(table, 0) for table in parts.values()]
    wide = state.kind != _PROGRESSIVE or (first and last - first >= _WIDE)
    if wide and _has_hole(data[start:end], symbols):
        raise _Broken("there is a hole of zeros among its pixels")
    return end


def _marks(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    return ((data[found.start() + 1], found.start()) for found in _INSIDE.finditer(data, start))


def _blocks(parts: dict[int, int], state: _State) -> int:
    """Return the number of coding units (MCUs) of a scan; restart marks are counted in these."""
    height, width = state.size
    across = max(h for h, _ in state.sampling.values())
    down = max(v for _, v in state.sampling.values())
    if len(parts) > 1:
        return math.ceil(width / (8 * across)) * math.ceil(height / (8 * down))
    h, v = state.sampling[next(iter(parts))]
    return math.ceil(math.ceil(width * h / across) / 8) * math.ceil(
        math.ceil(height * v / down) / 8
    )


def _has_hole(pixels: bytes, first: list[int]) -> bool:
    """Return whether there are zeros that come from no picture.

    If the all-zero code of each table ends a block, zeros may be a flat area. Otherwise they would
    be hundreds of equal coefficients. Zeros at the end are fill bytes.
    """
    return any(symbol & 15 for symbol in first) and _HOLE in pixels.rstrip(b"\0")


def _ends_grey(image: Image.Image) -> bool:
    if image.mode not in ("L", "RGB"):
        return False
    last = image.getpixel((image.width - 1, image.height - 1))
    return last in (_MIDDLE, (_MIDDLE,) * 3)
