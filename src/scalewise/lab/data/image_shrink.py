"""How small a large image is decoded, by one rule for all: training, validation, prediction.

It depends on the image's size and on the size that the network sees, not on augmentation, so that
the same file has the same pixels wherever it is used.
"""

from __future__ import annotations

from PIL import Image

_FACTORS = (8, 4, 2)  # what a JPEG decoder can do by itself
_SPARE = 2.5  # times the network's size: what zooms need, and what keeps resizing sharp


def shrink_of(width: int, height: int, size: int) -> int:
    """Return the factor by which an image is decoded smaller: 1, 2, 4 or 8.

    It is the largest that leaves the longer side at 2.5 times `size` or more: a zoom up to 2.5
    never enlarges pixels.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        size: of the longer side that the network sees, in pixels.

    Examples:
        >>> from scalewise.lab.data.image_shrink import shrink_of
        >>> [shrink_of(width, 2000, size=320) for width in (640, 1600, 3200, 6400, 20000)]
        [2, 2, 4, 8, 8]
    """
    longer = max(width, height)
    return next((k for k in _FACTORS if longer >= _SPARE * size * k), 1)


def shrunk(width: int, height: int, shrink: int) -> tuple[int, int]:
    """Return the width and height of an image that is decoded smaller, rounded up."""
    return -(-width // shrink), -(-height // shrink)


def draft(image: Image.Image, shrink: int) -> int:
    """Let a JPEG's decoder make the image smaller by as much of the factor as it can.

    Args:
        image: opened, not loaded.
        shrink: 1, 2, 4 or 8.

    Returns:
        The factor that it will be smaller by; `shrink` is a multiple of it.
    """
    width, height = image.size
    if shrink == 1:
        return 1
    drafted = image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
    return round(width / drafted[1][2]) if drafted else 1
