"""How small a large image is decoded: one rule for training, validation and prediction.

The rule depends on the image's size and on the size that the network sees, not on augmentation. So
the same file gives the same pixels wherever it is used.
"""

from __future__ import annotations

from PIL import Image

_FACTORS = (8, 4, 2)  # a JPEG decoder can shrink by these itself
_SPARE = 2.5  # times the network's size: enough for zooms and for sharp resizing


def shrink_of(width: int, height: int, size: int) -> int:
    """Return the factor by which an image is decoded smaller: 1, 2, 4 or 8.

    It is the largest factor that leaves the longer side at 2.5 times `size` or more. So a zoom of
    up to 2.5 never enlarges the pixels of a shrunk image.

    Args:
        width: width of the image in pixels.
        height: height of the image in pixels.
        size: length of the longer side that the network sees, in pixels.

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
    """Let the JPEG decoder shrink an image, as far as it can.

    Args:
        image: an image that is opened but not loaded.
        shrink: the wanted factor: 1, 2, 4 or 8.

    Returns:
        The factor by which the decoder will shrink it; `shrink` is a multiple of it.
    """
    width, height = image.size
    if shrink == 1:
        return 1
    drafted = image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
    return round(width / drafted[1][2]) if drafted else 1
