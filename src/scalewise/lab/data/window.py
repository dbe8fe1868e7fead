"""How an image is resized, and which part of it is kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """How an image is resized, and which part of the result is kept.

    Attributes:
        resized: (height, width) of the whole image after resizing, in pixels.
        top: first row that is kept.
        left: first column that is kept.
        height: number of rows that are kept.
        width: number of columns that are kept.
    """

    resized: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @property
    def whole(self) -> bool:
        """True if nothing is cut away."""
        return (self.height, self.width) == self.resized


def draw_window(
    size: int,
    zoom: tuple[float, float],
    height: int,
    width: int,
    generator: torch.Generator | None = None,
) -> Window:
    """Draw how an image is resized and cut, see `FitLongerSide`.

    Args:
        size: length of the longer side at zoom 1, in pixels.
        zoom: (low, high) factors; if they are equal, no zoom is drawn.
        height: height of the image in pixels.
        width: width of the image in pixels.
        generator: where the random numbers come from; None for torch's global CPU generator.
    """
    low, high = (math.log(factor) for factor in zoom)
    drawn = zoom[0]
    if high > low:
        drawn = math.exp(low + (high - low) * torch.rand((), generator=generator).item())
    factor = drawn * size / max(height, width)
    resized = (max(1, round(height * factor)), max(1, round(width * factor)))
    if max(resized) <= size:
        return Window(resized, 0, 0, *resized)
    rows, columns = (min(side, size) for side in resized)
    top, left = (
        int(torch.randint(side - cut + 1, (), generator=generator).item())
        for side, cut in zip(resized, (rows, columns), strict=True)
    )
    return Window(resized, top, left, rows, columns)


def cut_boxes(boxes: Tensor, corners: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Move boxes into the part of their image that is kept.

    Args:
        boxes: float32 [k, 4], corners in pixels.
        corners: [k, 2] or [2], (left, top) of the part in pixels.
        sides: [k, 2] or [2], (width, height) of the part in pixels.

    Returns:
        The boxes, float32 [k, 4], not clipped, and bool [k]: whether their centres lie in the part.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - corners  # [k, 2]
    kept = ((middle >= 0) & (middle < sides)).all(1)
    return boxes - torch.cat([corners, corners], -1), kept
