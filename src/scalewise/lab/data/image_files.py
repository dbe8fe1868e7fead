"""Which files are images, and those of a folder."""

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
# Names of image files, so that one that cannot be read is told, not passed over: all of the above,
# all that Ultralytics takes, and what cameras write.
_SUFFIXES = re.compile(
    r".+\.(apng|avif|avifs|arw|bmp|cr2|cr3|dib|dng|exr|gif|heic|heif|hif|j2c|j2k|jfif|jp2|jpc|jpe"
    r"|jpe?g|jpf|jpx|jxl|jxr|mpo|nef|orf|pbm|pcx|pef|pfm|pgm|png|pnm|ppm|psd|qoi|raf|raw|rgb|rw2"
    r"|sgi|srw|tga|tiff?|webp)",
    re.IGNORECASE | re.DOTALL,
)


def is_image_name(path: Path) -> bool:
    """Return whether a file is named like an image."""
    return bool(_SUFFIXES.fullmatch(path.name)) and not is_hidden_copy(path)


def is_image(path: Path) -> bool:
    """Return whether a file is named like an image, or begins like one."""
    if is_hidden_copy(path):
        return False
    if is_image_name(path):
        return True
    try:
        require_regular(path)
        with Image.open(path, formats=formats(but="TGA")):  # TGA files begin like anything
            return True
    except Exception:
        return False


def walk(folder: Path, unreadable: list[str] | None = None) -> Iterator[Path]:
    """Yield the files in a folder and all below it, sorted, links to folders followed.

    Each folder is visited once, however many links lead to it, so that loops end. What macOS leaves
    beside files on foreign disks (`._name`) is passed over.

    Args:
        folder: where to begin.
        unreadable: takes a line for each folder below that cannot be listed; None raises for it.

    Raises:
        OSError: when a folder cannot be listed.
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
            if not os.path.isdir(path):  # a link to itself too, which opening it will tell
                found.append(path)
            elif (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                waiting.append(path)
    yield from sorted(path for path in found if not is_hidden_copy(path))


def formats(but: str = "") -> list[str]:
    """The formats that are read, as Pillow names them, without one."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN and name != but]
