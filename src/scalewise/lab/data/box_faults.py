"""What can be wrong with a box."""

from __future__ import annotations

import math

import numpy as np

from scalewise.lab.data.faults import Faults

_ROUNDING = 0.5  # pixels; less beyond the image is no cut worth telling of
Box = tuple[float, float, float, float]


def box_fault(box: Box) -> str | None:
    """Return what is wrong with (x1, y1, x2, y2) in itself, or None."""
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
    """Cut a sound box to its image; one that misses the image is a fault.

    Args:
        box: (x1, y1, x2, y2) in pixels.
        width: image width in pixels.
        height: image height in pixels.
        where: file and object, for the fault.
        faults: gathers the fault, or counts the cut.

    Returns:
        The box inside the image, or None when it lies outside, or is thinner there than float32
        can tell.
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
