"""Reads an image of a Pascal VOC folder and its objects."""

from __future__ import annotations

import math
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException

from scalewise.lab.data.box_faults import Box, box_fault, clip_box
from scalewise.lab.data.encodings import LARGEST, read_text
from scalewise.lab.data.faults import Faults
from scalewise.lab.data.image_header import check_image
from scalewise.lab.data.image_record import ImageRecord, Objects
from scalewise.lab.data.text import printable, shown
from scalewise.lab.data.voc_lists import Folder
from scalewise.lab.data.voc_xml import WrittenObject, parse_annotation

_YES = ("1", "true", "yes")
_NO = ("0", "false", "no", "unspecified", "")


def read_image(
    folder: Folder, stem: str, image_id: int, labels: dict[str, int], faults: Faults
) -> ImageRecord | None:
    """Read an image and its objects; return None if a fault leaves the image out."""
    xml = folder.xml(stem)
    try:
        written = parse_annotation(read_text(xml, LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        faults.add(
            "missing annotation",
            str(xml),
            f"no such annotation file; '{stem}' is listed in {folder.names}",
        )
        return None
    except (ParseError, DefusedXmlException, OSError, ValueError) as error:
        why = str(error) if type(error) in (OSError, ValueError) else printable(repr(error))
        faults.add("broken file", str(xml), f"cannot be read as XML: {why}")
        return None
    width, height = written.size
    if not all(1 <= side < math.inf and side.is_integer() for side in written.size):
        what = "its size/width or size/height is missing or not a whole number"
        faults.add("broken file", str(xml), what)
        return None
    size = (int(width), int(height))
    path = folder.image(stem, written.file)
    if not check_image(path, faults, size):
        return None
    objects = Objects()
    for number, item in enumerate(written.objects, start=1):
        _read_object(item, f"{xml}, object {number}", size, labels, objects, faults)
    return objects.record(image_id, path, *size)


def _read_object(
    item: WrittenObject,
    where: str,
    size: tuple[int, int],
    labels: dict[str, int],
    objects: Objects,
    faults: Faults,
) -> None:
    name, (x1, y1, x2, y2), difficult = item
    if not name or x1 is None or y1 is None or x2 is None or y2 is None:
        faults.add("missing field", where, "its name or a number in bndbox is missing or repeated")
        return
    if name not in labels:
        faults.add("unknown class", where, f"class '{name}' is not in classes.txt")
        return
    where = f"{where} ({name})"
    if difficult not in (*_YES, *_NO):
        faults.add("bad value", where, f"difficult {shown(difficult)} is neither 0 nor 1")
        return
    written: Box = (x1, y1, x2, y2)
    if wrong := box_fault(written):
        faults.add("bad box", where, wrong)
        return
    box = clip_box((x1 - 1, y1 - 1, x2, y2), *size, where, faults)
    if box and not objects.add(box, labels[name], difficult=difficult in _YES):
        faults.add("duplicate object", where, "the same box of the same class occurs twice")
