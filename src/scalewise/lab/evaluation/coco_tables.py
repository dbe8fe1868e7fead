"""Turns splits and detections into the tables of COCO files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import ImageDetections


def raw_truth(split: Split) -> dict[str, Any]:
    """Return the unchanged content of a split's COCO file: boxes are not cut at image edges.

    Raises:
        BadData: the split was not read from a COCO file, or the file's image ids cannot be used.
    """
    path = Path(split.source)
    if split.format != "coco" or not path.is_file():
        raise BadData(
            f"{split.source}: --no-clip reads a COCO annotation file as it stands, and split "
            f"'{split.name}' is not read from one; leave out --no-clip"
        )
    truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    ids = {image["id"] for image in truth["images"]}
    if not {record.image_id for record in split.records} <= ids:
        raise BadData(f"{path}: --no-clip needs image ids that are whole numbers")
    for row in truth["annotations"]:
        row.setdefault("iscrowd", 0)
        row.setdefault("area", row["bbox"][2] * row["bbox"][3])
    return truth


def coco_truth(split: Split) -> dict[str, Any]:
    """Return the split as the content of a COCO annotation file, with its own category ids.

    Examples:
        >>> from scalewise.data import open_split
        >>> from scalewise.lab.evaluation import coco_truth
        >>> truth = coco_truth(open_split("demo:images=10,size=64", "val"))
        >>> sorted(truth), len(truth["images"])
        (['annotations', 'categories', 'images'], 2)
    """
    annotations: list[dict[str, Any]] = []
    for record in split.records:
        for box, label, crowd, area in zip(
            record.boxes.astype(float), record.labels, record.crowd, record.area, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": split.category_ids[label],
                    "bbox": xywh(box),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "images": [
            {
                "id": record.image_id,
                "file_name": record.path.name,
                "width": record.width,
                "height": record.height,
            }
            for record in split.records
        ],
        "annotations": annotations,
        "categories": [
            {"id": category, "name": name}
            for category, name in sorted(zip(split.category_ids, split.classes, strict=True))
        ],
    }


def coco_results(split: Split, detections: Sequence[ImageDetections]) -> list[dict[str, Any]]:
    """Return detections in the COCO result format, ready to be written as JSON.

    Examples:
        >>> import numpy as np
        >>> from scalewise.data import open_split
        >>> from scalewise.lab.evaluation import ImageDetections, coco_results
        >>> split = open_split("demo:images=10,size=64", "val")
        >>> found = ImageDetections(
        ...     1, np.array([[2.0, 3.0, 8.0, 7.0]]), np.array([0.9]), np.array([4]), np.array([0])
        ... )
        >>> coco_results(split, [found])
        [{'image_id': 1, 'category_id': 5, 'bbox': [2.0, 3.0, 6.0, 4.0], 'score': 0.9}]
    """
    return [
        {
            "image_id": entry.image_id,
            "category_id": split.category_ids[label],
            "bbox": xywh(box),
            "score": float(score),
        }
        for entry in detections
        for box, score, label in zip(
            entry.boxes.astype(float), entry.scores, entry.labels, strict=True
        )
    ]


def xywh(box: npt.NDArray[np.float64]) -> list[float]:
    """Turn a box (x1, y1, x2, y2) into [x, y, width, height]."""
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
