"""Label files of YOLO data sets.

A label file has one object per line: `class cx cy w h` in shares of the image's width and height,
or a polygon, `class x1 y1 x2 y2 x3 y3 ...`, which is read as the box around it.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from scalewise.lab.data.box_faults import clip_box
from scalewise.lab.data.encodings import LARGEST, read_lines, read_text
from scalewise.lab.data.faults import FaultFound, Faults
from scalewise.lab.data.image_record import Objects
from scalewise.lab.data.text import is_file, on_disk
from scalewise.lab.data.yolo_lines import LabelForm, LabelRow, read_line

_SAME = 0.9  # a box and a polygon of one class with a larger overlap (IoU) are one object
_LABELS = re.compile(r"\s*\d+(\s+[\d.eE+-]+){4,}\s*(\n|\r|$)", re.ASCII)


def label_file(image: Path) -> Path:
    """Return .../labels/a.txt for .../images/a.jpg; the last folder named `images` is replaced."""
    parts = list(image.parts)
    folders = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return on_disk(Path(*parts).with_suffix(".txt"))


def where_labels_lie(image: Path, labels: Path) -> str | None:
    """Return a message if the labels lie at a place where they are not read, else None.

    Args:
        image: the image.
        labels: the path of its label file, which does not exist.
    """
    if labels.is_symlink():
        return f"its label file {labels} is a broken link"
    for other in (image.with_suffix(".txt"), labels.with_suffix(".TXT")):
        if other != labels and _looks_like_labels(other):
            where = f"beside it, in {other.name}" if other.parent == image.parent else f"in {other}"
            return f"its labels lie {where}; they are looked for in {labels}"
    return None


def _looks_like_labels(file: Path) -> bool:
    """Return whether there is a file and its first line describes an object."""
    if not is_file(file):
        return False
    try:
        return bool(_LABELS.match(read_text(file, LARGEST)))
    except (OSError, ValueError):
        return False


def read_labels(
    file: Path, size: tuple[int, int], form: LabelForm, faults: Faults
) -> Objects | None:
    """Read the objects of an image; return None if its labels cannot be read.

    Args:
        file: the label file; if it does not exist, the image has no objects.
        size: width and height of the image in pixels.
        form: what is needed to read a line.
        faults: gets what is wrong.
    """
    objects = Objects()
    try:
        lines = read_lines(file, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return objects
    except (OSError, ValueError) as error:
        faults.add("broken file", str(file), f"cannot be read as labels: {error}")
        return None
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}"
        words = line.split()
        if not words:
            continue
        try:
            label, box, is_polygon = read_line(words, size, form)
        except FaultFound as fault:
            faults.add(fault.kind, where, str(fault))
            continue
        if inside := clip_box(box, *size, where, faults):
            rows.append(LabelRow(where, label, inside, is_polygon))
    again = _drawn_twice(rows)
    for place, row in enumerate(rows):
        if place in again:
            what = "a polygon around an object that also has a box"
            faults.add("duplicate object", row.where, what)
        elif not objects.add(row.box, row.label):
            faults.add("duplicate object", row.where, "the object occurs twice")
    return objects


def _drawn_twice(rows: list[LabelRow]) -> set[int]:
    """Return the indices of polygons whose object also has a box of the same class."""
    polygons = [place for place, row in enumerate(rows) if row.is_polygon]
    boxes = [row for row in rows if not row.is_polygon]
    if not polygons or not boxes:
        return set()
    known = np.array([row.box for row in boxes])  # [n, 4]
    labels = np.array([row.label for row in boxes])
    return {
        place
        for place in polygons
        if (_overlaps(np.array(rows[place].box), known[labels == rows[place].label]) > _SAME).any()
    }


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU [n] of a box [4] with others [n, 4]."""
    corner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = corner.clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    overlaps: np.ndarray = common / (areas - common)
    return overlaps
