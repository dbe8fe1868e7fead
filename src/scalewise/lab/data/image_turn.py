"""How an image has to be turned to stand upright."""

from __future__ import annotations

import os

from PIL import ExifTags, Image, ImageFile

from scalewise.lab.data.image_opening import PNG

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; as in viewers, 1 if it is missing or not valid.

    It is also 1 for TIFF images, because Pillow turns them itself when it loads them.
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
    return value if isinstance(value, int) and value in UPRIGHT else 1


def _has_late_exif(image: Image.Image) -> bool:
    """Return whether an opened PNG has EXIF; Pillow finds EXIF after the pixels only on loading."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:  # loaded
        return False
    start = file.tell()
    try:
        file.seek(len(PNG))
        while len(head := file.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            file.seek(4 + int.from_bytes(head[:4], "big"), os.SEEK_CUR)
        return False
    finally:
        file.seek(start)
