"""What can be wrong with a data set, and how it is told before training starts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from scalewise.errors import UserError

_SHOWN = 5
_ROUNDING = 0.5  # pixels; less beyond the image is no cut worth telling of
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

Box = tuple[float, float, float, float]


class BadData(UserError, ValueError):
    """A data set that cannot be trained on as it is; the message names file and fault."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: short name of the kind of fault, as counted in reports.
        where: the file, and the object in it.
        what: what is wrong there.
    """

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Faults:
    """Faults gathered while a split is read, so that all are told at once.

    Attributes:
        found: the faults in reading order.
        clipped: number of boxes that reached beyond their image and were cut to it.
    """

    found: list[Fault] = field(default_factory=list)
    clipped: int = 0

    def add(self, kind: str, where: str, what: str) -> None:
        """Note one fault."""
        self.found.append(Fault(kind, where, what))

    def counts(self) -> dict[str, int]:
        """Return the number of faults of each kind, most frequent first."""
        return dict(Counter(fault.kind for fault in self.found).most_common())

    def raise_if_any(self, source: str) -> None:
        """Raise with the first faults and the total.

        Args:
            source: what was read, for the message's first line.

        Raises:
            BadData: if any fault was noted.
        """
        if not self.found:
            return
        hint = "fix it, or train on the rest with --skip-bad"
        if len(self.found) == 1:
            raise BadData(f"{self.found[0]} ({hint})")
        lines = [str(fault) for fault in self.found[:_SHOWN]]
        if len(self.found) > _SHOWN:
            lines.append(f"and {len(self.found) - _SHOWN} more")
        raise BadData(
            f"{source}: {len(self.found)} faults: {format_counts(self.counts())} ({hint})\n  "
            + "\n  ".join(lines)
        )


def format_counts(counts: dict[str, int]) -> str:
    """Return counts per kind as one phrase, such as '2 bad boxes, 1 missing image'."""
    return ", ".join(
        f"{number} {kind}" + ("" if number == 1 else "es" if kind[-1] in "xs" else "s")
        for kind, number in counts.items()
    )


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
        The box inside the image, or None when it lies outside.
    """
    x1, y1, x2, y2 = box
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        faults.add(
            "box outside image",
            where,
            f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the {width}x{height} image",
        )
        return None
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    faults.clipped += max(abs(a - b) for a, b in zip(inside, box, strict=True)) > _ROUNDING
    return inside


def check_image(path: Path, width: int, height: int, faults: Faults) -> bool:
    """Check that an image is sound (`read_size`) and of the annotated size.

    Args:
        path: the image file.
        width: annotated width in pixels.
        height: annotated height in pixels.
        faults: gathers what is wrong.

    Returns:
        Whether the image is sound.
    """
    size = read_size(path, faults)
    if size and size != (width, height):
        faults.add(
            "size mismatch",
            str(path),
            f"is {size[0]}x{size[1]} pixels, its annotation says {width}x{height}",
        )
        return False
    return size is not None


def read_size(path: Path, faults: Faults, upright: bool = False) -> tuple[int, int] | None:
    """Check that an image is there, readable, whole and 8 bit, and return its size.

    Reads the header and the last bytes. Only a file without its format's end mark is decoded, to
    tell a truncated file from one with harmless trailing bytes: decoding all would take minutes.

    Args:
        path: the image file.
        faults: gathers what is wrong.
        upright: refuse an image that is to be turned before it is shown (EXIF), for formats whose
            annotations are made on the turned image: images are trained on as they are stored.

    Returns:
        Width and height in pixels, or None for an image with a fault.
    """
    try:
        with Image.open(path) as image:
            size: tuple[int, int] = image.size
            mode, mark = image.mode, _END_MARKS.get(image.format or "")
            turned = upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            if mark is None or not _ends_with(path, mark):
                image.load()
    except FileNotFoundError:
        faults.add("missing image", str(path), "no such image file")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        faults.add("unreadable image", str(path), f"cannot be read as an image: {error}")
    else:
        if mode not in _EIGHT_BIT_MODES:
            faults.add("unreadable image", str(path), f"pixel mode {mode} is not 8 bit")
        elif turned:
            faults.add("turned image", str(path), "EXIF turns it; save it upright, without the tag")
        else:
            return size
    return None


def _ends_with(path: Path, mark: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(mark), 2)
        return file.read() == mark
