"""Lines of YOLO label files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scalewise.lab.data.box_faults import Box, box_fault
from scalewise.lab.data.faults import FaultFound
from scalewise.lab.data.text import shown

_ROUNDING = 0.01  # rounded labels may lie this far outside of 0..1
_WHOLE = re.compile(r"[0-9]+", re.ASCII)
_TRACKED = 7  # columns of a tracking export (class cx cy w h score track), and of a triangle


@dataclass(frozen=True)
class LabelForm:
    """What is needed to read a label line.

    Attributes:
        labels: class id to label.
        columns: number of columns of a line with keypoints; 0 without keypoints.
    """

    labels: dict[int, int]
    columns: int


@dataclass(frozen=True)
class LabelRow:
    """The object of one line.

    Attributes:
        where: file and line.
        label: index of the class.
        box: (x1, y1, x2, y2) in pixels, cut to the image.
        is_polygon: whether it was written as a polygon.
    """

    where: str
    label: int
    box: Box
    is_polygon: bool


def read_line(words: list[str], size: tuple[int, int], form: LabelForm) -> tuple[int, Box, bool]:
    """Return the label, the box in pixels and whether the line is a polygon.

    Raises:
        FaultFound: the line cannot be used.
    """
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
            f"{shown(' '.join(words))} is either a box with a score and a track number, or a "
            "triangle: for a box leave out the last two columns, for a triangle write 0.0 and 1.0",
        )
    elif len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        what = f"has {len(words)} columns; a box has 5, a polygon an odd number from 7"
        raise FaultFound("broken line", what)
    if number not in form.labels:
        raise FaultFound("unknown class", f"class id {words[0][:40]} is not in 'names'")
    wrong = [x for x in shares if not -_ROUNDING <= x <= 1 + _ROUNDING]
    if wrong:
        raise FaultFound("bad box", f"{wrong[0]:g} is not between 0 and 1, as shares are")
    box = _corners(shares, *size)
    if what := box_fault(box) or "":
        raise FaultFound("bad box", what)
    return form.labels[int(number)], box, len(shares) > 4


def _number(word: str) -> float:
    if "_" in word or not word.isascii():  # Python takes 1_000 and other digits
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
