"""Writes small data sets in each format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Objects = list[tuple[str, tuple[float, float, float, float]]]


def write_image(path: Path, width: int, height: int) -> None:
    """Write an image of noise of this size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def voc_xml(width: int, height: int, objects: Objects, difficult: bool = False) -> str:
    """Return the XML text of a VOC annotation."""
    rows = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax>"
        "</bndbox><part><name>head</name></part></object>"
        for name, b in objects
    )
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        f"{rows}</annotation>"
    )


def write_voc(
    root: Path, images: dict[str, tuple[int, int, Objects]], split: str = "train"
) -> Path:
    """Write images with objects in VOC's own coordinates (1-based, inclusive)."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for stem, (width, height, objects) in images.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg", width, height)
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(width, height, objects))
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
    return root


def coco_table() -> dict[str, Any]:
    """Return a sound table of two 40x30 images, with gaps in the category ids."""
    return {
        "images": [
            {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 10, 8], "area": 50.0},
            {"id": 2, "image_id": 5, "category_id": 3, "bbox": [5.5, 5, 20, 20], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [0, 0, 40, 30]},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write_coco(root: Path, table: dict[str, Any], split: str = "train2017") -> Path:
    """Write a COCO folder with this table and two 40x30 images."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(table))
    for name in ("a.jpg", "b.jpg"):
        write_image(root / split / name, 40, 30)
    return root


def write_yolo(root: Path, lines: dict[str, str | None], split: str = "train") -> Path:
    """Write 40x30 images with their label files (None: without one), and `data.yaml`."""
    (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    for stem, text in lines.items():
        write_image(root / "images" / split / f"{stem}.jpg", 40, 30)
        if text is not None:
            (root / "labels" / split / f"{stem}.txt").write_text(text, encoding="utf-8")
    (root / "data.yaml").write_text(f"{split}: images/{split}\nnames: [cat, dog]\n")
    return root


def write_many_boxes(root: Path, boxes: int, **changes: Any) -> Path:
    """Write one image with this many boxes; `changes` apply to the last one."""
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [i % 35, i // 35, 5, 6]}
        for i in range(boxes)
    ]
    rows[-1] |= changes
    write_coco(root, {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": rows,
        "categories": [{"id": 1, "name": "dog"}],
    })  # fmt: skip
    return root
