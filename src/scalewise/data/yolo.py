"""Reader of YOLO data sets (docs.ultralytics.com/datasets/detect): data.yaml, images, labels.

A label file has one object a line: `class cx cy w h` in shares of the image's width and height, or
`class x1 y1 x2 y2 x3 y3 ...`, a polygon, whose object is the box around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scalewise.data.faults import BadData, Box, Faults, box_fault, clip_box, read_size
from scalewise.data.names import split_names
from scalewise.data.split import ImageRecord, Objects, Split, finish

# All that Ultralytics takes for images, so that one that cannot be read is told, not passed over.
_IMAGE = re.compile(r".+\.(bmp|dng|heic|heif|jp2|jpe?g|mpo|pfm|png|tiff?|webp)", re.IGNORECASE)
_ROUNDING = 0.01  # labels that tools rounded reach this far beyond 0..1


@dataclass(frozen=True)
class _Format:
    """What a label line is read with: class id to label, and columns of a line with keypoints."""

    labels: dict[int, int]
    columns: int


def yolo_file(path: Path) -> Path | None:
    """Return the data file of a YOLO data set, or None where there is none.

    Args:
        path: The YAML file itself, or a folder that has one with `names` and a split in it.

    Raises:
        BadData: when a folder has several such files and none of them is `data.yaml`.
    """
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    if (path / "data.yaml").is_file():
        return path / "data.yaml"
    files = [
        file
        for file in sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
        if {"names", "train"} <= set(_load(file, strict=False))
    ]
    if len(files) > 1:
        both = ", ".join(str(file) for file in files)
        raise BadData(f"{path}: the YOLO data file could be any of {both}; name one of them")
    return files[0] if files else None


def read_yolo(path: Path, name: str, skip_bad: bool) -> Split:
    """Read one split of a YOLO data set.

    Args:
        path: The data set's YAML file, or the folder that holds it.
        name: The split, a key of the file; `val` also finds `valid` and `validation`.
        skip_bad: Leave out faulty images and objects instead of raising.

    Returns:
        The split; its classes are `names` in order of their ids. An image without a label file has
        no objects, and is counted in `Split.unlabelled`.

    Raises:
        BadData: when the file or split is not there, or for the faults found.
    """
    file = yolo_file(path)
    if file is None:
        raise BadData(f"{path}: no YOLO data set: there is no data.yaml in it")
    table = _load(file, strict=True)
    names = _class_names(file, table)
    form = _Format({number: label for label, number in enumerate(names)}, _keypoints(file, table))
    faults = Faults()
    records: list[ImageRecord] = []
    unlabelled = 0
    seen: set[Path] = set()
    for image in _images(file, table, name):
        if image in seen:
            faults.add("duplicate id", str(file), f"image {image} is listed twice")
            continue
        seen.add(image)
        size = read_size(image, faults, upright=True)
        if size:
            labels = _label_file(image)
            unlabelled += not labels.is_file()
            objects = _read_labels(labels, size, form, faults)
            records.append(objects.record(len(records) + 1, image, *size))
    split = Split(
        format="yolo",
        name=name,
        source=str(file),
        classes=tuple(names.values()),
        category_ids=tuple(names),
        records=records,
        unlabelled=unlabelled,
    )
    return finish(split, faults, skip_bad)


def _load(file: Path, strict: bool) -> dict[Any, Any]:
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        if not strict:
            return {}
        raise BadData(f"{file}: cannot be read as YAML: {error}") from error
    if isinstance(table, dict):
        return table
    if strict:
        raise BadData(f"{file}: no YOLO data file: it has no 'names' and no splits")
    return {}


def _class_names(file: Path, table: dict[Any, Any]) -> dict[int, str]:
    """Return class id to name, in order of the ids."""
    names = table.get("names")
    if names is None and isinstance(table.get("nc"), int):
        names = [f"class_{number}" for number in range(table["nc"])]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise BadData(f"{file}: 'names' is neither a list of class names nor ids with names")
    for number in names:
        if not isinstance(number, int) or number < 0:
            raise BadData(f"{file}: 'names' has the class id {number!r}, which is no number from 0")
    found = {number: str(names[number]) for number in sorted(names)}
    if len(set(found.values())) < len(found):
        raise BadData(f"{file}: a class is named twice")
    return found


def _keypoints(file: Path, table: dict[Any, Any]) -> int:
    """Return the columns of a line with keypoints; 0 where there are none."""
    shape = table.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)):
        raise BadData(f"{file}: 'kpt_shape' {shape!r} is not two numbers such as [17, 3]")
    return 5 + math.prod(shape)


def _images(file: Path, table: dict[Any, Any], name: str) -> Iterator[Path]:
    key = next((key for key in (name, *split_names(name)) if table.get(key)), None)
    if key is None:
        there = ", ".join(
            k for k in ("train", "val", "valid", "validation", "test") if table.get(k)
        )
        raise BadData(f"{file}: no split '{name}'; the splits there are: {there or 'none'}")
    entries = table[key] if isinstance(table[key], list) else [table[key]]
    if not all(isinstance(entry, str) for entry in entries):
        raise BadData(f"{file}: '{key}' is neither a path nor a list of paths")
    roots = _roots(file, table)
    for entry in entries:
        found = _find(file, entry, roots)
        if found.is_dir():
            yield from sorted(p for p in found.rglob("*") if _IMAGE.fullmatch(p.name))
        else:
            yield from _listed(found, roots)


def _roots(file: Path, table: dict[Any, Any]) -> tuple[Path, ...]:
    """Return where the file's paths may start: at `path`, or in its own folder if it was moved."""
    stated = Path(str(table.get("path") or "")).expanduser()
    return tuple(dict.fromkeys((file.parent / stated, stated.absolute(), file.parent)))


def _find(file: Path, entry: str, roots: tuple[Path, ...]) -> Path:
    # Roboflow writes ../train/images where train/images is meant.
    tried = [root / part for root in roots for part in (entry, entry.removeprefix("../"))]
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        places = ", ".join(dict.fromkeys(str(path) for path in tried))
        raise BadData(f"{file}: '{entry}' is at none of: {places} (nothing is downloaded)")
    return found


def _listed(file: Path, roots: tuple[Path, ...]) -> Iterator[Path]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{file}: cannot be read as a list of images: {error}") from error
    for line in filter(None, map(str.strip, lines)):
        places = [folder / line for folder in (file.parent, *roots)]
        yield next((place for place in places if place.is_file()), places[0])


def _label_file(image: Path) -> Path:
    """Return .../labels/a.txt for .../images/a.jpg, by the last folder of that name."""
    parts = list(image.parts)
    folders = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(file: Path, size: tuple[int, int], form: _Format, faults: Faults) -> Objects:
    objects = Objects()
    if not file.is_file():
        return objects
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        faults.add("broken file", str(file), f"cannot be read as text: {error}")
        return objects
    seen: set[tuple[str, ...]] = set()
    for number, line in enumerate(lines, start=1):
        words = tuple(line.split())
        where = f"{file}, line {number}"
        if words and words in seen:
            faults.add("duplicate object", where, "the line is there twice")
        elif words:
            seen.add(words)
            _read_object(words, where, size, form, objects, faults)
    return objects


def _read_object(
    words: tuple[str, ...],
    where: str,
    size: tuple[int, int],
    form: _Format,
    objects: Objects,
    faults: Faults,
) -> None:
    try:
        number, *shares = map(float, words)
    except ValueError:
        faults.add("broken line", where, f"'{' '.join(words[:6])}' is not all numbers")
        return
    if len(words) == form.columns:
        shares = shares[:4]
    elif len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        faults.add(
            "broken line", where, f"has {len(words)} columns, neither a box's 5 nor a polygon's"
        )
        return
    if number not in form.labels:
        faults.add("unknown class", where, f"class id {words[0]} is not in 'names'")
        return
    if wrong := next((x for x in shares if not -_ROUNDING <= x <= 1 + _ROUNDING), None):
        faults.add("bad box", where, f"{wrong:g} is no share of the image, which is 0 to 1")
        return
    box = _corners(shares, *size)
    if fault := box_fault(box):
        faults.add("bad box", where, fault)
    elif inside := clip_box(box, *size, where, faults):
        objects.add(inside, form.labels[int(number)])


def _corners(shares: list[float], width: int, height: int) -> Box:
    if len(shares) == 4:
        x, y, w, h = shares
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        xs, ys = shares[::2], shares[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    x1, y1, x2, y2 = corners
    return (x1 * width, y1 * height, x2 * width, y2 * height)
