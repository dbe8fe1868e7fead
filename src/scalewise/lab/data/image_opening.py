"""Opening image files; whatever a decoder raises becomes one kind of error."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from scalewise.lab.data.faults import FaultFound
from scalewise.lab.data.image_files import formats
from scalewise.lab.data.text import require_regular

PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
T = TypeVar("T")


def with_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Open an image and return `use(image)`.

    Raises:
        FaultFound: there is no such file, or it cannot be read.
    """
    try:
        require_regular(path)
        try:
            with Image.open(path, formats=formats()) as image:
                return use(image)
        except ValueError:  # Pillow limits texts and colour profiles, which are not needed
            plain = _without_text(path)
            if plain is None:
                raise
        with Image.open(plain, formats=["PNG"]) as image:
            return use(image)
    except FaultFound:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise FaultFound("missing image", "no such image file") from None
    except Exception as error:  # decoders raise nearly every kind of error
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "its image format is not known"
        raise FaultFound("unreadable image", f"cannot be read as an image: {why}") from None


def _without_text(path: Path) -> io.BytesIO | None:
    """Return a PNG without its texts and its colour profile; None for other formats."""
    data = path.read_bytes()
    if not data.startswith(PNG):
        return None
    kept, place = [PNG], len(PNG)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in _TEXT_CHUNKS:
            kept.append(data[place:end])
        place = end
    return io.BytesIO(b"".join(kept))
