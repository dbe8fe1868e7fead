"""The content of a VOC annotation file, before it is checked."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from scalewise.lab.data.coco_values import class_name


class WrittenObject(NamedTuple):
    """An object as written in the file.

    Attributes:
        name: class name; None if it is missing, empty or given twice.
        box: xmin, ymin, xmax, ymax; None for each that is missing, given twice or not a number.
        difficult: the mark as written; "0" if it is missing or empty, "?" if it is given twice.
    """

    name: str | None
    box: tuple[float | None, ...]
    difficult: str


class Annotation(NamedTuple):
    """A file's content.

    Attributes:
        file: name of the image file; "" if it is not given.
        size: width and height in pixels; 0 for each that is not given.
        objects: the objects in the file's order.
    """

    file: str
    size: tuple[float, ...]
    objects: tuple[WrittenObject, ...]


@lru_cache(maxsize=2**15)  # each split reads all files of a folder for its classes
def parse_annotation(text: str) -> Annotation:
    """Read the text of an annotation file; it is decoded before, as the parser knows few encodings.

    Raises:
        ValueError, ParseError, DefusedXmlException: it cannot be read.
    """
    tree: Element = fromstring(text)
    return Annotation(
        _text(tree, "filename") or "",
        tuple(_number(_text(tree, f"size/{side}")) or 0.0 for side in ("width", "height")),
        tuple(
            WrittenObject(
                class_name(_text(item, "name") or "") or None,
                tuple(
                    _number(_text(item, f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")
                ),
                (_text(item, "difficult", empty="0") or "?").lower(),
            )
            for item in tree.iter("object")
        ),
    )


def _text(item: Element, path: str, empty: str | None = None) -> str | None:
    """Return the text at a path; `empty` if there is none, None if there are several."""
    found = item.findall(path)
    if not found:
        return empty
    return (found[0].text or "").strip() or empty if len(found) == 1 else None


def _number(text: str | None) -> float | None:
    if text is None or "_" in text or not text.isascii():  # Python takes 1_000 and other digits
        return None
    try:
        return float(text)
    except ValueError:
        return None
