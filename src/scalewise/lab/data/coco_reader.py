"""Reader of COCO annotation files (Lin et al., ECCV 2014; cocodataset.org, "data format")."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalewise.lab.data.box_faults import box_fault, clip_box
from scalewise.lab.data.coco_files import find_file, find_image, image_folder
from scalewise.lab.data.coco_rows import read_tables
from scalewise.lab.data.coco_values import (
    Check,
    Row,
    any_id,
    class_name,
    corners,
    flag,
    is_number,
    name_fault,
    read_row,
    whole_number,
)
from scalewise.lab.data.faults import BadData, FaultFound, Faults
from scalewise.lab.data.image_header import check_image
from scalewise.lab.data.image_record import Objects
from scalewise.lab.data.split import Split, finish
from scalewise.lab.data.text import shown

_IMAGE_FIELDS: dict[str, Check] = {
    "id": whole_number,
    "file_name": str,
    "width": whole_number,
    "height": whole_number,
}
_OBJECT_FIELDS: dict[str, Check] = {
    "id": any_id,
    "image_id": whole_number,
    "category_id": whole_number,
    "bbox": list,
}
_LARGEST_AREA = 1e30  # square pixels; float32 ends at 3e38


@dataclass
class _Image:
    """One image of the file, and the objects found for it so far."""

    file_name: str
    width: int
    height: int
    objects: Objects = field(default_factory=Objects)


def read_coco(path: Path, name: str, tolerance: float) -> Split:
    """Read one split of a COCO folder.

    Args:
        path: the data set's folder, or an annotation file (the other splits lie beside it).
        name: the split; `val` finds `instances_val2017.json`.
        tolerance: share of images and objects that may be at fault, see `Faults.raise_beyond`.

    Returns:
        The split. Its classes are the file's categories in order of their ids; ids may have gaps.

    Raises:
        BadData: the split is not there, the file is not a COCO file, or it has too many faults.
    """
    file = find_file(path, name)
    tables = read_tables(file)
    classes = _categories(file, tables["categories"])
    faults = Faults()
    images = _images(file, tables["images"], faults)
    _read_annotations(file, tables["annotations"], classes, images, faults)
    folder = image_folder(file, name, [image.file_name for image in images.values()])
    records = []
    for image_id, image in images.items():
        image_path = find_image(folder, image.file_name)
        size = (image.width, image.height)
        if check_image(image_path, faults, size):
            records.append(image.objects.record(image_id, image_path, *size))
    split = Split(
        format="coco",
        name=name,
        source=str(file),
        classes=tuple(classes.values()),
        category_ids=tuple(classes),
        records=records,
    )
    return finish(split, faults, tolerance)


def _categories(file: Path, rows: list[Any]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for number, row in enumerate(rows):
        where = f"{file}: categories[{number}]"
        try:
            values = read_row(row, {"id": whole_number, "name": str})
        except FaultFound as fault:
            raise BadData(f"{where} {fault}") from None
        category, name = values["id"], class_name(values["name"])
        if wrong := name_fault(name):
            raise BadData(f"{where}: the name {shown(name)} {wrong}")
        if category in classes:
            raise BadData(f"{where}: category id {category} is given twice")
        if name in classes.values():
            raise BadData(f"{where}: category name '{name}' is given twice")
        classes[category] = name
    return dict(sorted(classes.items()))


def _images(file: Path, rows: list[Any], faults: Faults) -> dict[int, _Image]:
    images: dict[int, _Image] = {}
    files: dict[str, int] = {}
    for number, row in enumerate(rows):
        where = f"{file}, images[{number}]"
        try:
            values = read_row(row, _IMAGE_FIELDS)
        except FaultFound as fault:
            faults.add(fault.kind, where, str(fault))
            continue
        image_id, name = values["id"], values["file_name"]
        plain = posixpath.normpath(name.replace("\\", "/"))
        if image_id in images:
            faults.add("duplicate id", where, f"image id {image_id} is given twice")
        elif plain in files:
            what = f"{shown(name)} has two image ids, {files[plain]} and {image_id}"
            faults.add("duplicate id", where, what)
        else:
            images[image_id] = _Image(name, values["width"], values["height"])
            files[plain] = image_id
    return images


def _read_annotations(
    file: Path,
    rows: list[Any],
    classes: dict[int, str],
    images: dict[int, _Image],
    faults: Faults,
) -> None:
    labels = {category: label for label, category in enumerate(classes)}
    seen: dict[object, Any] = {}
    for number, row in enumerate(rows):
        where = f"{file}, annotations[{number}]"
        try:
            values = read_row(row, _OBJECT_FIELDS)
        except FaultFound as fault:
            faults.add(fault.kind, where, str(fault))
            continue
        own = values["id"]
        where = f"{file}, annotation {shown(own)}"
        if own in seen:
            kind = "duplicate object" if row == seen[own] else "duplicate id"
            faults.add(kind, where, f"annotation id {shown(own)} is given twice")
            continue
        seen[own] = row
        if values["image_id"] not in images:
            faults.add("unknown image", where, f"image id {values['image_id']} is not in 'images'")
        elif values["category_id"] not in labels:
            what = f"category id {values['category_id']} is not in 'categories'"
            faults.add("unknown class", where, what)
        else:
            image = images[values["image_id"]]
            where += f" (image {image.file_name})"
            _read_object(row, where, labels[values["category_id"]], image, faults)


def _read_object(row: Row, where: str, label: int, image: _Image, faults: Faults) -> None:
    box, area, crowd = corners(row["bbox"]), row.get("area"), flag(row.get("iscrowd"))
    if box is None:
        faults.add("bad box", where, f"bbox {shown(row['bbox'])} is not four numbers")
    elif wrong := box_fault(box):
        faults.add("bad box", where, wrong)
    elif area is not None and not (is_number(area) and 0 <= area < _LARGEST_AREA):
        faults.add("bad box", where, f"area {shown(area)} is not a finite number of at least 0")
    elif crowd is None:
        faults.add("bad value", where, f"iscrowd {shown(row['iscrowd'])} is neither 0 nor 1")
    elif (
        inside := clip_box(box, image.width, image.height, where, faults)
    ) and not image.objects.add(inside, label, area, crowd):
        faults.add("duplicate object", where, "the same box of the same class occurs twice")
