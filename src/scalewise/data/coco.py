"""Reader of COCO annotation files (Lin et al., ECCV 2014; cocodataset.org, "data format")."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from scalewise.data.faults import BadData, Box, Faults, box_fault, check_image, clip_box
from scalewise.data.names import split_names
from scalewise.data.split import ImageRecord, Objects, Split, finish

_ROBOFLOW = "_annotations.coco.json"


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
    }


def read_coco(path: Path, name: str, skip_bad: bool) -> Split:
    """Read one split of a COCO folder.

    Args:
        path: the data set's folder, or an annotation file (whose siblings hold the other splits).
        name: the split; `val` finds `instances_val2017.json`.
        skip_bad: leave out faulty images and objects instead of raising.

    Returns:
        The split; its classes are the file's categories in order of their ids, whatever the holes.

    Raises:
        BadData: when the split is not there, the file is no COCO file, or for the faults found.
    """
    file = _find_file(path, name)
    tables = _load(file)
    classes = _categories(file, tables["categories"])
    faults = Faults()
    images = _images(file, tables["images"], faults)
    _read_annotations(file, tables["annotations"], classes, images, faults)
    folder = _image_folder(file, name, [image["file_name"] for image, _ in images.values()])
    records: list[ImageRecord] = []
    for image_id, (image, objects) in images.items():
        width, height = image["width"], image["height"]
        image_path = folder / image["file_name"]
        if check_image(image_path, width, height, faults):
            records.append(objects.record(image_id, image_path, width, height))
    split = Split(
        format="coco",
        name=name,
        source=str(file),
        classes=tuple(classes.values()),
        category_ids=tuple(classes),
        records=records,
    )
    return finish(split, faults, skip_bad)


def _find_file(path: Path, name: str) -> Path:
    files = coco_files(path)
    for wanted in (name, *split_names(name)):
        exact = [file for file, held in files.items() if held == wanted]
        dated = [file for file, held in files.items() if re.fullmatch(rf"{wanted}\d+", held)]
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


def _load(file: Path) -> dict[str, list[Any]]:
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise BadData(f"{file}: cannot be read as JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise BadData(f"{file}: no COCO annotation file: it has no list '{key}'")
    return {key: data[key] for key in ("images", "annotations", "categories")}


def _categories(file: Path, rows: list[Any]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for number, row in enumerate(rows):
        where = f"{file}: categories[{number}]"
        if missing := _missing(row, {"id": int, "name": str}):
            raise BadData(f"{where} lacks {missing}")
        if row["id"] in classes:
            raise BadData(f"{where}: category id {row['id']} is given twice")
        if row["name"] in classes.values():
            raise BadData(f"{where}: category name '{row['name']}' is given twice")
        classes[row["id"]] = row["name"]
    return dict(sorted(classes.items()))


def _images(
    file: Path, rows: list[Any], faults: Faults
) -> dict[int, tuple[dict[str, Any], Objects]]:
    images: dict[int, tuple[dict[str, Any], Objects]] = {}
    for number, row in enumerate(rows):
        where = f"{file}, images[{number}]"
        fields = {"id": int, "file_name": str, "width": int, "height": int}
        if missing := _missing(row, fields):
            faults.add("missing field", where, f"lacks {missing}")
        elif row["id"] in images:
            faults.add("duplicate id", where, f"image id {row['id']} is given twice")
        else:
            images[row["id"]] = (row, Objects())
    return images


def _read_annotations(
    file: Path,
    rows: list[Any],
    classes: dict[int, str],
    images: dict[int, tuple[dict[str, Any], Objects]],
    faults: Faults,
) -> None:
    labels = {category: label for label, category in enumerate(classes)}
    seen: set[int] = set()
    for number, row in enumerate(rows):
        where = f"{file}, annotations[{number}]"
        fields = {"id": int, "image_id": int, "category_id": int, "bbox": list}
        if missing := _missing(row, fields):
            faults.add("missing field", where, f"lacks {missing}")
            continue
        where = f"{file}, annotation {row['id']}"
        if row["id"] in seen:
            faults.add("duplicate id", where, f"annotation id {row['id']} is given twice")
            continue
        seen.add(row["id"])
        if row["image_id"] not in images:
            faults.add("unknown image", where, f"image id {row['image_id']} is not in 'images'")
        elif row["category_id"] not in labels:
            faults.add(
                "unknown class", where, f"category id {row['category_id']} is not in 'categories'"
            )
        else:
            image, objects = images[row["image_id"]]
            where += f" (image {image['file_name']})"
            box = _corners(row["bbox"])
            area = row.get("area")
            if box is None:
                faults.add("bad box", where, f"bbox {row['bbox']} is not four numbers")
            elif wrong := box_fault(box):
                faults.add("bad box", where, wrong)
            elif area is not None and not (_is_number(area) and 0 <= area < math.inf):
                faults.add("bad box", where, f"area {area} is not a finite number of at least 0")
            elif inside := clip_box(box, image["width"], image["height"], where, faults):
                objects.add(inside, labels[row["category_id"]], area, row.get("iscrowd") == 1)


def _corners(bbox: list[Any]) -> Box | None:
    if len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        return None
    x, y, width, height = bbox
    return (x, y, x + width, y + height)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _missing(row: Any, fields: dict[str, type]) -> str:
    if not isinstance(row, dict):
        return "everything: it is no JSON object"
    return ", ".join(
        f"'{key}' ({kind.__name__})"
        for key, kind in fields.items()
        if not isinstance(row.get(key), kind)
    )


def _image_folder(file: Path, name: str, file_names: list[str]) -> Path:
    """Return the folder that holds the images: layouts differ, the files tell."""
    stem = file.stem.removeprefix("instances_")
    parts = ("", stem, name, f"images/{stem}", f"images/{name}", "images", "JPEGImages")
    folders = [base / part for base in (file.parent, file.parent.parent) for part in parts]
    for folder in folders:
        if any((folder / file_name).is_file() for file_name in file_names[:20]):
            return folder
    if not file_names:
        return folders[0]
    tried = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise BadData(f"{file}: its images are in none of: {tried}")
