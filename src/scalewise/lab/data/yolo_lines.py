"""Lines of YOLO's label files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scalewise.lab.data.box_faults import Box, box_fault
from scalewise.lab.data.faults import FaultFound
from scalewise.lab.data.text import shown

_ROUNDING = 0.01  # labels that tools rounded reach this far beyond 0..1
_WHOLE = re.compile(r"[0-9]+", re.ASCII)
_TRACKED = 7  # columns of a tracking export, class cx cy w h score track, and of a triangle


@dataclass(frozen=True)
class LabelForm:
    """What a label line is read with.

    Attributes:
        labels: class id to label.
        columns: of a line with keypoints; 0 where there are none.
    """

    labels: dict[int, int]
    columns: int


@dataclass(frozen=True)
class LabelRow:
    """One object as a line has it."""

    where: str
    label: int
    box: Box
    is_polygon: bool


def read_line(words: list[str], size: tuple[int, int], form: LabelForm) -> tuple[int, Box, bool]:
    """Return label, box in pixels and whether it is a polygon's."""
    try:
        number, *shares = map(_number, words)
    except ValueError:
        what = f"{shown(' '.join(words[:6]))} is not all numbers"
        raise FaultFound("broken line", what) from None
    if len(words) == form.columns:
        shares = shares[:4]
    elif len(words) == _TRACKED and any(map(_WHOLE.fullmatch, words[5:])):
        raise FaultFound(
            "ambiguous line",
            f"{shown(' '.join(words))} is a box with a score and the number of a track, or a "
            "triangle: leave out the last two columns, or write 0.0 and 1.0 for 0 and 1",
        )
    elif len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        what = f"has {len(words)} columns, neither a box's 5 nor a polygon's"
        raise FaultFound("broken line", what)
    if number not in form.labels:
        raise FaultFound("unknown class", f"class id {words[0][:40]} is not in 'names'")
    wrong = [x for x in shares if not -_ROUNDING <= x <= 1 + _ROUNDING]
    if wrong:
        raise FaultFound("bad box", f"{wrong[0]:g} is no share of the image, which is 0 to 1")
    box = _corners(shares, *size)
    if what := box_fault(box) or "":
        raise FaultFound("bad box", what)
    return form.labels[int(number)], box, len(shares) > 4


def _number(word: str) -> float:
    if "_" in word or not word.isascii():  # which Python reads, and nobody writes
        raise ValueError
    return float(word)


def _corners(shares: list[float], width: int, height: int) -> Box:
    if len(shares) == 4:
        x, y, w, h = shares
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        xs, ys = shares[::2], shares[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    x1, y1, x2, y2 = corners
    return (x1 * width, y1 * height, x2 * width, y2 * height)
