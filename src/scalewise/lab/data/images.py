"""The one way in which image files become pixels: training, validation, evaluation, prediction.

What a viewer shows is the truth: images are turned as their EXIF orientation says. Pixel values are
OpenCV's: alpha is left out, 16 bits become 8 by their high byte, CMYK is turned into RGB without a
colour profile. What has no such reading (32-bit and float pixels) is refused.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from scalewise.lab.data.faults import BadData, FaultFound, Faults
from scalewise.lab.data.jpeg import jpeg_damage
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
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
_BITS, _MEANING = 258, 262  # tags of a TIFF: bits per sample, and whether 0 is white

T = TypeVar("T")


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


def load_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image, upright.

    Args:
        path: the file.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadData: when there is no such file, it is damaged, or its pixels have no 8-bit reading;
            one line with the file's name.

    Examples:
        >>> from scalewise.data import load_image, open_split
        >>> load_image(open_split("demo:images=10,size=64").records[0].path).shape
        (64, 64, 3)
    """
    try:
        return _with_image(path, _pixels)
    except FaultFound as fault:
        raise BadData(f"{path}: {fault}") from None


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
        _require_mode(image)
        turned = _orientation(image) >= 5
        width, height = image.size[::-1] if turned else image.size
        return Header(width, height, turned)

    return _with_image(path, check)


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
        with Image.open(path, formats=_formats(but="TGA")):  # TGA files begin like anything
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


def _formats(but: str = "") -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN and name != but]


def _with_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Open an image and use it; whatever the decoders raise becomes an `FaultFound`."""
    try:
        require_regular(path)
        try:
            with Image.open(path, formats=_formats()) as image:
                return use(image)
        except ValueError:  # Pillow's limit on text and colour profiles, which are not needed
            plain = _without_text(path)
            if plain is None:
                raise
        with Image.open(plain, formats=["PNG"]) as image:
            return use(image)
    except FaultFound:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise FaultFound("missing image", "no such image file") from None
    except Exception as error:  # decoders raise nearly every kind there is
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "it is in no image format that can be read"
        raise FaultFound("unreadable image", f"cannot be read as an image: {why}") from None


def _without_text(path: Path) -> io.BytesIO | None:
    """Return a PNG without its texts and its colour profile, None for another file."""
    data = path.read_bytes()
    if not data.startswith(_PNG):
        return None
    kept, place = [_PNG], len(_PNG)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in _TEXT_CHUNKS:
            kept.append(data[place:end])
        place = end
    return io.BytesIO(b"".join(kept))


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    _require_mode(image)
    stored = _content(image) if image.format in ("JPEG", "MPO") else b""
    image.load()
    if stored and (damage := jpeg_damage(stored, image)):
        raise FaultFound("unreadable image", f"is damaged: {damage}")
    if _is_16_bit(image):
        image_8 = Image.fromarray(_high_byte(image))
    elif image.mode == "P":
        image_8 = image.convert("RGBA")  # not at once, which warns of transparent colours
    else:
        image_8 = image
    turn = _UPRIGHT.get(_orientation(image))
    rgb = image_8.convert("RGB")
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _high_byte(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The upper 8 of an image's 16 bits, or of a TIFF's 12, with black as 0: uint8 [H, W]."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits = tags.get(_BITS, (16,))[0]
    grey = (np.asarray(image).astype(np.int64) >> (bits - 8)).astype(np.uint8)
    pixels: npt.NDArray[np.uint8] = ~grey if tags.get(_MEANING) == 0 else grey
    return pixels


def _content(image: Image.Image) -> bytes:
    """The bytes of an image that is not loaded yet; none of one that is."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:
        return b""
    start = file.tell()
    try:
        file.seek(0)
        return file.read()
    finally:
        file.seek(start)


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _require_mode(image: Image.Image) -> None:
    if image.mode not in _EIGHT_BIT_MODES and not _is_16_bit(image):
        raise FaultFound(
            "unreadable image",
            f"its pixels (Pillow's mode {image.mode}) are neither 8 nor 16 bit grey or colours, "
            "so how bright they are meant to be is not known: save it as 8 bit",
        )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; as in viewers, 1 where it makes no sense.

    Pillow turns TIFF images itself, when it loads them.
    """
    if image.format == "PNG" and "exif" not in image.info and _has_late_exif(image):
        image.load()
    data = image.info.get("exif")
    if not data or image.format == "TIFF":
        return 1
    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF, whatever Pillow raises for it
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _has_late_exif(image: Image.Image) -> bool:
    """Return whether a PNG has EXIF anywhere: behind its pixels, Pillow sees it only on loading."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:  # loaded
        return False
    start = file.tell()
    try:
        file.seek(len(_PNG))
        while len(head := file.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            file.seek(4 + int.from_bytes(head[:4], "big"), os.SEEK_CUR)
        return False
    finally:
        file.seek(start)


def _ends_with(path: Path, mark: bytes) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(mark), 2)
        return file.read() == mark
