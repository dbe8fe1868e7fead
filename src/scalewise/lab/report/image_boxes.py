"""Draws boxes on an image, and names where they cover no other box or name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from scalewise.lab.letters import lettering

SIDE = 560  # pixels of the longer side; pages show it at about half of that
LETTERS = 19  # pixels
DASH = 7  # pixels of a dash and of the gap after it

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """One box to draw.

    Attributes:
        box: float [4], (x1, y1, x2, y2) in pixels of the original image.
        color: colour of its line.
        dashed: whether the line is dashed.
        strong: whether the line is twice as wide, as for a rare object.
        name: text beside the box, drawn if there is room; empty for none.
    """

    box: npt.NDArray[np.floating]
    color: str
    dashed: bool = False
    strong: bool = False
    name: str = ""


def draw_marks(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A copy of an image with boxes, resized for the page.

    Args:
        image: The image in RGB.
        marks: The boxes; later ones lie on top of earlier ones. Names of strong ones are placed
            first.
    """
    factor = SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    canvas = image.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    corners = [_corners(mark.box * factor) for mark in marks]
    for mark, box in zip(marks, corners, strict=True):
        _outline(pen, box, mark)
    taken: list[Rectangle] = []
    for place in sorted(range(len(marks)), key=lambda place: not marks[place].strong):
        others = [*taken, *corners[:place], *corners[place + 1 :]]
        label = _label(pen, marks[place], corners[place], others, canvas.size)
        if label is not None:
            taken.append(label)
    return canvas


def _corners(box: npt.NDArray[np.floating]) -> Rectangle:
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def _outline(pen: ImageDraw.ImageDraw, box: Rectangle, mark: Mark) -> None:
    width = 4 if mark.strong else 2
    if not mark.dashed:
        pen.rectangle(box, outline=mark.color, width=width)
        return
    pen.rectangle(box, outline="white", width=width)
    for line in _dashes(box):
        pen.line(line, fill=mark.color, width=width)


def _dashes(box: Rectangle) -> Iterator[Rectangle]:
    x1, y1, x2, y2 = box
    for x in np.arange(x1, x2, 2 * DASH):
        for y in (y1, y2):
            yield x, y, min(x + DASH, x2), y
    for y in np.arange(y1, y2, 2 * DASH):
        for x in (x1, x2):
            yield x, y, x, min(y + DASH, y2)


def _label(
    pen: ImageDraw.ImageDraw,
    mark: Mark,
    box: Rectangle,
    others: Sequence[Rectangle],
    size: tuple[int, int],
) -> Rectangle | None:
    """Write a mark's name above, below or inside its box. Returns its place; None without room."""
    if not mark.name:
        return None
    text, font = lettering(mark.name, LETTERS)
    _left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right + 4, bottom - top + 5
    x = min(box[0], size[0] - width)
    inside = box[2] - box[0] > 1.5 * width and box[3] - box[1] > 4 * height
    for y in (box[1] - height, box[3] + 1, *([box[1]] if inside else [])):
        place = (x, y, x + width, y + height)
        free = not any(_touch(place, other) for other in others)
        if free and x >= 0 and y >= 0 and y + height <= size[1]:
            pen.rectangle(place, fill=mark.color)
            pen.text((x + 2, y + 2 - top), text, fill="white", font=font)
            return place
    return None


def _touch(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
