"""Reader of YOLO data sets (docs.ultralytics.com/datasets/detect): data.yaml, images, labels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from scalewise.lab.data.coco_values import class_name, name_fault
from scalewise.lab.data.faults import BadData, Faults
from scalewise.lab.data.images import check_image, is_image_name, walk
from scalewise.lab.data.names import split_names
from scalewise.lab.data.split import ImageRecord, Split, finish
from scalewise.lab.data.text import (
    found_in,
    is_file,
    is_hidden_copy,
    on_disk,
    read_lines,
    read_text,
    shown,
)
from scalewise.lab.data.yolo_labels import LabelForm, label_file, read_labels, where_labels_lie

_SPLITS = ("train", "val", "valid", "validation", "test")
_LARGEST = 2**21  # bytes of a YAML file, of which PyYAML reads some 200,000 a second
_NOTHING = ("", "~", "null", "Null", "NULL")


class _Loader(yaml.BaseLoader):
    """Values as they are written, so that `no` is a class's name, not false."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are there twice, of which one would be lost."""
        keys = [str(key.value) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=True)
        return mapping


def yolo_file(path: Path) -> Path | None:
    """Return the data file of a YOLO data set, or None where there is none.

    Args:
        path: The YAML file itself, or a folder that has one with `names` and a split in it.

    Raises:
        BadData: when a folder has several such files and none of them is `data.yaml`.
    """
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    if is_file(path / "data.yaml"):
        return path / "data.yaml"
    files = [
        file
        for file in sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
        if not is_hidden_copy(file) and {"names", "train"} <= set(_load(file, strict=False))
    ]
    if len(files) > 1:
        both = ", ".join(str(file) for file in files)
        raise BadData(f"{path}: the YOLO data file could be any of {both}; name one of them")
    return files[0] if files else None


def read_yolo(path: Path, name: str, tolerance: float) -> Split:
    """Read one split of a YOLO data set.

    Args:
        path: The data set's YAML file, or the folder that holds it.
        name: The split, a key of the file; `val` also finds `valid` and `validation`.
        tolerance: Share of images and objects that may be at fault, see `Faults.raise_beyond`.

    Returns:
        The split; its classes are `names` in order of their ids. An image without a label file has
        no objects, and is counted in `Split.unlabelled`.

    Raises:
        BadData: when the file or split is not there, or for the faults found.
    """
    file = yolo_file(path)
    if file is None:
        raise BadData(f"{path}: no YOLO data set: there is no data.yaml in it; {found_in(path)}")
    table = _load(file, strict=True)
    faults = Faults()
    names = _class_names(file, table, faults)
    form = LabelForm({number: place for place, number in enumerate(names)}, _keypoints(file, table))
    records: list[ImageRecord] = []
    unlabelled: list[Path] = []
    seen: set[str] = set()
    for image in _images(file, table, name):
        plain = os.path.normpath(image)
        if plain in seen:
            faults.add("duplicate image", str(file), f"image {image} is listed twice")
            continue
        seen.add(plain)
        header = check_image(image, faults)
        if header is None:
            continue
        labels = label_file(image)
        if not labels.exists():
            if elsewhere := where_labels_lie(image, labels):
                faults.add("misplaced labels", str(image), elsewhere)
                continue
            unlabelled.append(labels)
        objects = read_labels(labels, header[:2], form, faults)
        if objects is not None:
            records.append(objects.record(len(records) + 1, image, *header[:2]))
    split = Split(
        format="yolo",
        name=name,
        source=str(file),
        classes=tuple(names.values()),
        category_ids=tuple(names),
        records=records,
        unlabelled=len(unlabelled),
    )
    return finish(split, faults, tolerance, _where_labels(unlabelled))


def _where_labels(unlabelled: list[Path]) -> str:
    """Say where labels were looked for, and what is there instead."""
    if not unlabelled:
        return ""
    folder = unlabelled[0].parent
    known = folder
    while not known.is_dir():
        known = known.parent
    return (
        f"; labels were looked for in {unlabelled[0]} and the like, "
        + (f"but there is no {folder}, and in {known}" if known != folder else "and there")
        + f" {found_in(known)}"
    )


def _load(file: Path, strict: bool) -> dict[Any, Any]:
    try:
        table = yaml.load(read_text(file, _LARGEST), Loader=_Loader)
    except (yaml.YAMLError, OSError, ValueError, TypeError, RecursionError) as error:
        if not strict:
            return {}
        why = " ".join(str(error).split())
        raise BadData(f"{file}: cannot be read as YAML: {why}") from None
    if isinstance(table, dict):
        return table
    if strict:
        raise BadData(f"{file}: no YOLO data file: it has no 'names' and no splits")
    return {}


def _number(value: object) -> int | None:
    """Return a whole number from 0 as it is written in YAML, None for anything else."""
    plain = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
    return int(str(value)) if plain else None


def _class_names(file: Path, table: dict[Any, Any], faults: Faults) -> dict[int, str]:
    """Return class id to name, in order of the ids."""
    names, count = table.get("names"), _number(table.get("nc"))
    if names is None and count is not None and count < 100_000:
        names = [f"class_{number}" for number in range(count)]
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise BadData(f"{file}: 'names' is neither a list of class names nor ids with names")
    found: dict[int, str] = {}
    for key, name in names.items():
        number = _number(key)
        if number is None:
            raise BadData(
                f"{file}: 'names' has the class id {shown(key)}, which is no number from 0"
            )
        if not isinstance(name, str):
            raise BadData(f"{file}: the name of class {number}, {shown(name)}, is no text")
        if fault := name_fault(name):
            raise BadData(f"{file}: the name of class {number} {fault}")
        found[number] = class_name(name)
    if len(set(found.values())) < len(found):
        raise BadData(f"{file}: a class is named twice")
    if len(found) < len(names):
        raise BadData(f"{file}: a class id of 'names' is there twice")
    stated = table.get("nc", "")
    if stated not in _NOTHING and count not in (len(found), max(found) + 1):
        what = f"'nc' is {shown(stated)}, but 'names' has {len(found)} classes"
        faults.add("class count", str(file), what)
    return dict(sorted(found.items()))


def _keypoints(file: Path, table: dict[Any, Any]) -> int:
    """Return the columns of a line with keypoints; 0 where there are none."""
    shape = table.get("kpt_shape")
    if shape is None or (isinstance(shape, str) and shape in _NOTHING):
        return 0
    sizes = [_number(size) for size in shape] if isinstance(shape, list) else []
    if not sizes or not all(sizes):
        raise BadData(f"{file}: 'kpt_shape' {_plain(shape)} is not two numbers such as [17, 3]")
    return 5 + math.prod(size for size in sizes if size)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def _images(file: Path, table: dict[Any, Any], name: str) -> Iterator[Path]:
    there = [key for key in _SPLITS if _is_given(table.get(key))]
    key = next((key for key in (name, *split_names(name)) if _is_given(table.get(key))), None)
    if key is None:
        raise BadData(
            f"{file}: no split '{name}'; the splits there are: {', '.join(there) or 'none'}"
        )
    entries = table[key] if isinstance(table[key], list) else [table[key]]
    if not all(isinstance(entry, str) for entry in entries):
        raise BadData(f"{file}: '{key}' is neither a path nor a list of paths")
    roots = _roots(file, table)
    for entry in entries:
        found = _find(file, entry, roots)
        if found.is_dir():
            yield from (
                path
                for path in walk(found)
                if is_image_name(path) and not _in_hidden_folder(path, found)
            )
        else:
            yield from _listed(found, roots)


def _in_hidden_folder(path: Path, root: Path) -> bool:
    """Whether it lies in a folder such as `.ipynb_checkpoints`, which holds copies."""
    return any(part.startswith(".") for part in path.relative_to(root).parts[:-1])


def _is_given(value: object) -> bool:
    return bool(value) and not (isinstance(value, str) and value in _NOTHING)


def _roots(file: Path, table: dict[Any, Any]) -> tuple[Path, ...]:
    """Return where the file's paths may start: at `path`, or in its own folder if it was moved."""
    stated = table.get("path")
    if not isinstance(stated, str) or stated in _NOTHING:
        return (file.parent,)
    try:
        folder = Path(stated).expanduser()
    except RuntimeError:  # ~ of a user who is not here
        return (file.parent,)
    return tuple(dict.fromkeys((file.parent / folder, folder.absolute(), file.parent)))


def _find(file: Path, entry: str, roots: tuple[Path, ...]) -> Path:
    # Roboflow writes ../train/images where train/images is meant.
    written = dict.fromkeys((entry, _posix(entry)))
    parts = [part for each in written for part in (each, each.removeprefix("../"))]
    tried = [root / part for root in roots for part in parts]
    found = next((path for path in tried if _exists(path)), None)
    if found is None:
        places = ", ".join(dict.fromkeys(str(path) for path in tried))
        windows = " (a path of Windows)" if PureWindowsPath(entry).drive else ""
        raise BadData(
            f"{file}: '{entry}'{windows} is at none of: {places} (nothing is downloaded); "
            f"in {file.parent} {found_in(file.parent)}"
        )
    return found


def _posix(entry: str) -> str:
    """Return a path as Windows writes them in this system's way."""
    return entry.replace("\\", "/")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _listed(file: Path, roots: tuple[Path, ...]) -> Iterator[Path]:
    try:
        lines = read_lines(file)
    except (OSError, ValueError) as error:
        raise BadData(f"{file}: cannot be read as a list of images: {error}") from None
    for line in filter(None, (line.strip(" \t") for line in lines)):
        places = [
            on_disk(folder / each)
            for each in dict.fromkeys((line, _posix(line)))
            for folder in (file.parent, *roots)
        ]
        yield next((place for place in places if is_file(place)), places[0])
