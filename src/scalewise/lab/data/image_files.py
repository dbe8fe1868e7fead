"""Which files are images, and the files in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from scalewise.lab.data.text import is_hidden_copy, printable, require_regular

# No EPS, PDF or WMF: Pillow hands those to other programs.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI",
            "SGI", "TGA", "TIFF", "WEBP")  # fmt: skip
# Names of image files: all formats above, all that Ultralytics takes, and those of cameras. Some of
# these cannot be read here; they are listed so that they are reported, not passed over.
_SUFFIXES = re.compile(
    r".+\.(apng|avif|avifs|arw|bmp|cr2|cr3|dib|dng|exr|gif|heic|heif|hif|j2c|j2k|jfif|jp2|jpc|jpe"
    r"|jpe?g|jpf|jpx|jxl|jxr|mpo|nef|orf|pbm|pcx|pef|pfm|pgm|png|pnm|ppm|psd|qoi|raf|raw|rgb|rw2"
    r"|sgi|srw|tga|tiff?|webp)",
    re.IGNORECASE | re.DOTALL,
)


def is_image_name(path: Path) -> bool:
    """Return whether a file's name ends like an image's."""
    return bool(_SUFFIXES.fullmatch(path.name)) and not is_hidden_copy(path)


def is_image(path: Path) -> bool:
    """Return whether a file's name ends like an image's, or its first bytes are an image's."""
    if is_hidden_copy(path):
        return False
    if is_image_name(path):
        return True
    try:
        require_regular(path)
        with Image.open(path, formats=formats(but="TGA")):  # any bytes may begin a TGA file
            return True
    except Exception:
        return False


def walk(folder: Path, unreadable: list[str] | None = None) -> Iterator[Path]:
    """Yield the files in a folder and in all folders below it, sorted; links are followed.

    Each folder is visited once, however many links lead to it, so that loops end. The `._name`
    files that macOS writes to other disks are passed over.

    Args:
        folder: where to begin.
        unreadable: gets a line for each folder that cannot be listed. If None, such a folder raises
            an error.

    Raises:
        OSError: a folder cannot be listed, and `unreadable` is None.
    """
    seen = {os.path.realpath(folder)}
    waiting = [folder]
    found: list[Path] = []
    while waiting:
        present = waiting.pop()
        try:
            with os.scandir(present) as entries:
                paths = [Path(entry.path) for entry in entries]
        except OSError as error:
            if unreadable is None:
                raise
            unreadable.append(printable(f"{present}: cannot be listed: {error.strerror}"))
            continue
        for path in paths:
            if not os.path.isdir(path):  # also a link to itself: opening it fails later
                found.append(path)
            elif (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                waiting.append(path)
    yield from sorted(path for path in found if not is_hidden_copy(path))


def formats(but: str = "") -> list[str]:
    """Return Pillow's names of the formats that are read, without `but`."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN and name != but]
