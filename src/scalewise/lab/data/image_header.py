"""Checks of an image file, and of its header, before training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from scalewise.lab.data.faults import FaultFound, Faults
from scalewise.lab.data.image_opening import with_image
from scalewise.lab.data.image_turn import orientation

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_TAIL = 32  # bytes; only zeros at the end may be a download that was cut off
_LENGTHS = {"WEBP": (4, 8), "BMP": (2, 0)}
"""Where a header states the length of the file, and how many bytes that length does not count."""


class Header(NamedTuple):
    """The size of an image.

    Attributes:
        width: width of the upright image in pixels.
        height: height of the upright image in pixels.
        on_its_side: whether the file stores width and height the other way round.
    """

    width: int
    height: int
    on_its_side: bool


def read_header(path: Path) -> Header:
    """Check that an image exists, is complete and can be read, and return its upright size.

    Of JPEG, PNG, WebP and BMP files only the header and the end are read, as decoding all of a data
    set takes minutes. Without its end mark, or with another length than its header gives, the file
    is decoded: it may be truncated, or have harmless bytes at its end. Other formats are always
    decoded.

    Args:
        path: the file.

    Raises:
        FaultFound: the check fails.
    """

    def check(image: Image.Image) -> Header:
        if not _is_whole(path, image.format or ""):
            image.load()
        require_mode(image)
        turned = orientation(image) >= 5
        width, height = image.size[::-1] if turned else image.size
        return Header(width, height, turned)

    return with_image(path, check)


def check_image(path: Path, faults: Faults, size: tuple[int, int] | None = None) -> Header | None:
    """Check that an image is sound and has the annotated size.

    Args:
        path: the image file.
        faults: gets what is wrong.
        size: annotated width and height in pixels; None if no size is annotated.

    Returns:
        Its header, or None for an image with a fault.
    """
    try:
        header = read_header(path)
    except FaultFound as fault:
        faults.add(fault.kind, str(path), str(fault))
        return None
    if size is None or size == header[:2]:
        return header
    width, height = size
    if header.on_its_side and size == (header.height, header.width):
        faults.add(
            "turned image",
            str(path),
            f"is {header.width}x{header.height} pixels as viewers show it, turned by EXIF; its "
            f"annotation says {width}x{height}, the size as stored: label the image as shown, "
            "or save it without the EXIF orientation",
        )
    else:
        faults.add(
            "size mismatch",
            str(path),
            f"is {header.width}x{header.height} pixels, its annotation says {width}x{height}",
        )
    return None


def is_16_bit(image: Image.Image) -> bool:
    """Return whether an image, as opened, has 16 bits per channel."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def require_mode(image: Image.Image) -> None:
    """Refuse pixels that do not say how to turn them into 8 bits.

    Raises:
        FaultFound: the pixels have neither 8 nor 16 bits.
    """
    if image.mode not in _EIGHT_BIT_MODES and not is_16_bit(image):
        raise FaultFound(
            "unreadable image",
            f"its pixels (Pillow's mode {image.mode}) are neither 8 nor 16 bit grey or colours, "
            "so it is not known which value is white: save it as 8 bit",
        )


def _is_whole(path: Path, kind: str) -> bool:
    """Return whether a file has its format's end mark, or the length that its header gives."""
    with open(path, "rb") as file:
        if kind in _LENGTHS:
            place, apart = _LENGTHS[kind]
            length = int.from_bytes(file.read(place + 4)[place:], "little") + apart
            if file.seek(0, 2) != length:
                return False
            file.seek(-min(_TAIL, length), 2)
            return any(file.read())
        mark = _END_MARKS.get(kind)
        if mark is None:
            return False
        file.seek(-len(mark), 2)
        return file.read() == mark
