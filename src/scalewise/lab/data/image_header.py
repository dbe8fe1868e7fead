"""What an image file says of itself before it is decoded, checked."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from scalewise.lab.data.faults import FaultFound, Faults
from scalewise.lab.data.image_opening import with_image
from scalewise.lab.data.image_turn import orientation

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class Header(NamedTuple):
    """What an image's header says.

    Attributes:
        width: in pixels, upright.
        height: in pixels, upright.
        on_its_side: the file stores width and height the other way round.
    """

    width: int
    height: int
    on_its_side: bool


def read_header(path: Path) -> Header:
    """Check that an image is there, whole and of a readable kind, and return its upright size.

    Reads the header and the last bytes. Only a file without its format's end mark is decoded, to
    tell a truncated file from one with harmless trailing bytes: decoding all would take minutes.

    Args:
        path: the file.

    Raises:
        FaultFound: when it is not.
    """

    def check(image: Image.Image) -> Header:
        mark = _END_MARKS.get(image.format or "")
        if mark is None or not _ends_with(path, mark):
            image.load()
        require_mode(image)
        turned = orientation(image) >= 5
        width, height = image.size[::-1] if turned else image.size
        return Header(width, height, turned)

    return with_image(path, check)


def check_image(path: Path, faults: Faults, size: tuple[int, int] | None = None) -> Header | None:
    """Check that an image is sound, and of the annotated size.

    Args:
        path: the image file.
        faults: gathers what is wrong.
        size: annotated width and height in pixels; None where nothing is annotated.

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
            f"annotation says {width}x{height}, which is how it is stored: label what is shown, "
            "or save it without the tag",
        )
    else:
        faults.add(
            "size mismatch",
            str(path),
            f"is {header.width}x{header.height} pixels, its annotation says {width}x{height}",
        )
    return None


def is_16_bit(image: Image.Image) -> bool:
    """Whether the pixels of an image that is not decoded yet have 16 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def require_mode(image: Image.Image) -> None:
    """Refuse pixels without an 8-bit reading.

    Raises:
        FaultFound: they have none.
    """
    if image.mode not in _EIGHT_BIT_MODES and not is_16_bit(image):
        raise FaultFound(
            "unreadable image",
            f"its pixels (Pillow's mode {image.mode}) are neither 8 nor 16 bit grey or colours, "
            "so how bright they are meant to be is not known: save it as 8 bit",
        )


def _ends_with(path: Path, mark: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(mark), 2)
        return file.read() == mark
