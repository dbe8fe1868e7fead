"""Decoding of image files: one way for training, validation, evaluation and prediction.

Images are turned upright by their EXIF orientation, as viewers show them. Pixel values are the same
as OpenCV's: alpha is left out, 16 bits become 8 by their high byte, CMYK becomes RGB without a
colour profile. 32-bit and float pixels are refused. Large images are decoded small for the network
(`image_shrink`), and whole for pictures that people look at.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from scalewise.lab.data.faults import BadData, FaultFound
from scalewise.lab.data.image_header import is_16_bit, require_mode
from scalewise.lab.data.image_opening import with_image
from scalewise.lab.data.image_shrink import draft, shrink_of
from scalewise.lab.data.image_turn import UPRIGHT, orientation
from scalewise.lab.data.jpeg import jpeg_damage

_BITS, _MEANING = 258, 262  # tags of a TIFF: bits per sample, and whether 0 is white


class LoadedImage(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, upright; of the original size, or smaller by `shrink_of`.
        width: width of the upright original in pixels.
        height: height of the upright original in pixels.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


def load_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image, upright and at its original size.

    Args:
        path: the file.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadData: there is no such file, it is damaged, or its pixels have neither 8 nor 16 bits. The
            message is one line with the file's name.

    Examples:
        >>> from scalewise.data import load_image, open_split
        >>> load_image(open_split("demo:images=10,size=64").records[0].path).shape
        (64, 64, 3)
    """
    return _load(path, None).pixels


def load_shrunk(path: Path, size: int) -> LoadedImage:
    """Decode an image, upright, and smaller by the factor of `shrink_of`.

    Args:
        path: the file.
        size: length of the longer side that the network sees, in pixels.

    Raises:
        BadData: as for `load_image`.
    """
    return _load(path, size)


def _load(path: Path, size: int | None) -> LoadedImage:
    try:
        return with_image(path, lambda image: _decode(image, size))
    except FaultFound as fault:
        raise BadData(f"{path}: {fault}") from None


def _decode(image: Image.Image, size: int | None) -> LoadedImage:
    """Decode an opened image; at its original size if `size` is None."""
    require_mode(image)
    if image.format in ("JPEG", "MPO"):
        width, height = image.size
        shrink = shrink_of(width, height, size) if size else 1
        stored = _content(image)
        drafted = draft(image, shrink)
        image.load()
        if stored and (damage := jpeg_damage(stored, image)):
            raise FaultFound("unreadable image", f"is damaged: {damage}")
    else:
        image.load()
        width, height = image.size
        shrink, drafted = shrink_of(width, height, size) if size else 1, 1
    rgb = _as_rgb(image)
    if shrink > drafted:
        rgb = rgb.reduce(shrink // drafted)
    turned = orientation(image)
    if turned in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[turned])
    return LoadedImage(np.array(rgb), *((height, width) if turned >= 5 else (width, height)))


def _as_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as 8-bit RGB."""
    if is_16_bit(image):
        return Image.fromarray(_high_byte(image)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # going to RGB at once would warn of transparent colours
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the upper 8 of an image's 16 bits (of a TIFF's 12), black as 0: uint8 [H, W]."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits = tags.get(_BITS, (16,))[0]
    grey = (np.asarray(image).astype(np.int64) >> (bits - 8)).astype(np.uint8)
    pixels: npt.NDArray[np.uint8] = ~grey if tags.get(_MEANING) == 0 else grey
    return pixels


def _content(image: Image.Image) -> bytes:
    """Return the bytes of an image's file if it is not loaded yet, else no bytes."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:
        return b""
    start = file.tell()
    try:
        file.seek(0)
        return file.read()
    finally:
        file.seek(start)
