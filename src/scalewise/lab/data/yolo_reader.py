"""Reader of YOLO data sets (docs.ultralytics.com/datasets/detect): data.yaml, images, labels."""

from __future__ import annotations

import os
from pathlib import Path

from scalewise.lab.data.faults import BadData, Faults
from scalewise.lab.data.image_header import check_image
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split, finish
from scalewise.lab.data.text import found_in, is_file, is_hidden_copy
from scalewise.lab.data.yolo_images import images_of
from scalewise.lab.data.yolo_labels import label_file, read_labels, where_labels_lie
from scalewise.lab.data.yolo_lines import LabelForm
from scalewise.lab.data.yolo_yaml import class_names_of, keypoints, load_yaml


def yolo_file(path: Path) -> Path | None:
    """Return the data file of a YOLO data set, or None if there is none.

    Args:
        path: the YAML file itself, or a folder with `data.yaml` or with one other YAML file that
            has `names` and `train`.

    Raises:
        BadData: the folder has several such files, and none of them is `data.yaml`.
    """
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    if is_file(path / "data.yaml"):
        return path / "data.yaml"
    files = [
        file
        for file in sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
        if not is_hidden_copy(file) and {"names", "train"} <= set(load_yaml(file, strict=False))
    ]
    if len(files) > 1:
        both = ", ".join(str(file) for file in files)
        raise BadData(f"{path}: the YOLO data file could be any of {both}; name one of them")
    return files[0] if files else None


def read_yolo(path: Path, name: str, tolerance: float) -> Split:
    """Read one split of a YOLO data set.

    Args:
        path: the data set's YAML file, or the folder that holds it.
        name: the split, a key of the file; `val` also finds `valid` and `validation`.
        tolerance: share of images and objects with a fault, see `Faults.raise_beyond`.

    Returns:
        The split. Its classes are `names` in order of their ids. An image without a label file has
        no objects and is counted in `Split.unlabelled`.

    Raises:
        BadData: the file or the split does not exist, or there are too many faults.
    """
    file = yolo_file(path)
    if file is None:
        raise BadData(f"{path}: not a YOLO data set: there is no data.yaml; {found_in(path)}")
    table = load_yaml(file, strict=True)
    faults = Faults()
    names = class_names_of(file, table, faults)
    form = LabelForm({number: place for place, number in enumerate(names)}, keypoints(file, table))
    records: list[ImageRecord] = []
    unlabelled: list[Path] = []
    seen: set[str] = set()
    for image in images_of(file, table, name):
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
    """Return a phrase that says where labels were looked for, and what is there instead."""
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
