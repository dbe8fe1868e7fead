"""Reader of COCO annotation files (Lin et al., ECCV 2014; cocodataset.org, "data format")."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

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
from scalewise.lab.data.faults import BadData, FaultFound, Faults, box_fault, clip_box
from scalewise.lab.data.images import check_image
from scalewise.lab.data.names import split_names
from scalewise.lab.data.split import Objects, Split, finish
from scalewise.lab.data.text import found_in, is_file, is_hidden_copy, on_disk, shown

_ROBOFLOW = "_annotations.coco.json"
_SAMPLE = 20  # images by which their folder is found
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


def coco_files(path: Path) -> dict[Path, str]:
    """Return the annotation files at `path` and the name of the split each one holds.

    Args:
        path: a data set's folder, or one of its annotation files; the others are its siblings.

    Returns:
        File to split name: `instances_val2017.json` holds `val2017`, `valid/_annotations.coco.json`
        (the layout of Roboflow exports) holds `valid`.
    """
    if path.is_file():
        files = [*path.parent.glob("*.json"), *path.parent.parent.glob(f"*/{_ROBOFLOW}")]
    else:
        folders = (path / "annotations", path / "coco", path)
        files = [found for folder in folders for found in folder.glob("*.json")]
        files += path.glob(f"*/{_ROBOFLOW}")
    return {
        file: file.parent.name if file.name == _ROBOFLOW else file.stem.removeprefix("instances_")
        for file in sorted(files)
        if not is_hidden_copy(file)
    }


def read_coco(path: Path, name: str, tolerance: float) -> Split:
    """Read one split of a COCO folder.

    Args:
        path: the data set's folder, or an annotation file (whose siblings hold the other splits).
        name: the split; `val` finds `instances_val2017.json`.
        tolerance: share of images and objects that may be at fault, see `Faults.raise_beyond`.

    Returns:
        The split; its classes are the file's categories in order of their ids, whatever the holes.

    Raises:
        BadData: when the split is not there, the file is no COCO file, or for the faults found.
    """
    file = _find_file(path, name)
    tables = read_tables(file)
    classes = _categories(file, tables["categories"])
    faults = Faults()
    images = _images(file, tables["images"], faults)
    _read_annotations(file, tables["annotations"], classes, images, faults)
    folder = _image_folder(file, name, [image.file_name for image in images.values()])
    records = []
    for image_id, image in images.items():
        image_path = _find_image(folder, image.file_name)
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


def _find_file(path: Path, name: str) -> Path:
    files = coco_files(path)
    for wanted in (name, *split_names(name)):
        exact = [file for file, held in files.items() if held == wanted]
        dated = [f for f, held in files.items() if re.fullmatch(rf"{re.escape(wanted)}\d+", held)]
        for matches in (exact, dated):
            if path in matches:
                return path
            if len(matches) > 1:
                both = ", ".join(str(match) for match in matches)
                raise BadData(f"{path}: split '{name}' could be any of {both}; name one of them")
            if matches:
                return matches[0]
    there = ", ".join(sorted(set(files.values()))) or "none"
    raise BadData(f"{path}: no split '{name}'; the annotation files there hold: {there}")


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
        faults.add("duplicate object", where, "the same box of the same class is there twice")


def _image_folder(file: Path, name: str, file_names: list[str]) -> Path:
    """Return the folder that holds the images: layouts differ, the files tell."""
    stem = file.stem.removeprefix("instances_")
    parts = ("", stem, name, f"images/{stem}", f"images/{name}", "images", "JPEGImages")
    bases = (file.parent, file.parent.parent)
    folders = list(dict.fromkeys(base / part for base in bases for part in parts))
    sample = file_names[:_SAMPLE]
    held = [sum(is_file(_find_image(folder, each)) for each in sample) for folder in folders]
    if any(held) or not sample:
        return folders[held.index(max(held))]
    there = [folder for folder in folders[1:] if folder.is_dir() and folder not in bases]
    found = "; ".join(f"{folder}: {found_in(folder)}" for folder in there[:3])
    raise BadData(
        f"{file}: its images, such as {shown(sample[0])}{_foreign(sample[0])}, are in none of: "
        + ", ".join(map(str, folders))
        + (f" ({found})" if found else "")
    )


def _find_image(folder: Path, file_name: str) -> Path:
    """Return where an image is; names written by Windows are understood."""
    path = folder / file_name
    if "\\" in file_name and not is_file(path):
        other = PureWindowsPath(file_name)
        if not other.is_absolute():
            path = folder / other.as_posix()
    return on_disk(path)


def _foreign(file_name: str) -> str:
    if PureWindowsPath(file_name).is_absolute() or file_name.startswith("/"):
        return " (a whole path, perhaps another machine's: write names from the images' folder on)"
    return ""
