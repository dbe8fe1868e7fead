"""What a VOC annotation file says, as it says it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from scalewise.lab.data.coco_values import class_name


class WrittenObject(NamedTuple):
    """An object as its file has it; None for what is not there or there twice."""

    name: str | None
    box: tuple[float | None, ...]
    difficult: str


class Annotation(NamedTuple):
    """What a file says: its image's name, width and height in pixels, 0 or "" where it does not."""

    file: str
    size: tuple[float, ...]
    objects: tuple[WrittenObject, ...]


@lru_cache(maxsize=2**15)  # every split of a folder needs the classes in all of its files
def parse_annotation(text: str) -> Annotation:
    """Read the text of an annotation file, which may be in any encoding: the parser knows few.

    Raises:
        ValueError, ParseError, DefusedXmlException: when it cannot be.
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
    """Return the text at a path; `empty` where there is none, None where there are several."""
    found = item.findall(path)
    if not found:
        return empty
    return (found[0].text or "").strip() or empty if len(found) == 1 else None


def _number(text: str | None) -> float | None:
    if text is None or "_" in text or not text.isascii():  # which Python reads, and nobody writes
        return None
    try:
        return float(text)
    except ValueError:
        return None
