"""What can be wrong with a box."""

from __future__ import annotations

import math

import numpy as np

from scalewise.lab.data.faults import Faults

_ROUNDING = 0.5  # pixels; a box cut by no more than this is not counted as clipped
Box = tuple[float, float, float, float]


def box_fault(box: Box) -> str | None:
    """Return what is wrong with a box (x1, y1, x2, y2), whatever its image, or None."""
    x1, y1, x2, y2 = box
    text = f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not all(math.isfinite(value) for value in box):
        return f"{text} is not finite"
    if x2 < x1 or y2 < y1:
        return f"{text} has negative width or height"
    if x2 == x1 or y2 == y1:
        return f"{text} has zero area"
    return None


def clip_box(box: Box, width: int, height: int, where: str, faults: Faults) -> Box | None:
    """Cut a sound box to its image; a box that misses the image is a fault.

    Args:
        box: (x1, y1, x2, y2) in pixels.
        width: image width in pixels.
        height: image height in pixels.
        where: file and object, for the fault.
        faults: gets the fault, or counts the cut.

    Returns:
        The part of the box inside the image. None if that part is empty, or if its width or height
        is zero in float32.
    """
    x1, y1, x2, y2 = box
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    left, top, right, bottom = np.array(inside, np.float32)
    if right <= left or bottom <= top:
        faults.add(
            "box outside image",
            where,
            f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the {width}x{height} image",
        )
        return None
    faults.clipped += max(abs(a - b) for a, b in zip(inside, box, strict=True)) > _ROUNDING
    return inside
