"""The COCO metrics (Lin et al., ECCV 2014; cocodataset.org, "detection evaluation")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from scalewise.data import Split
from scalewise.evaluation.detections import ImageDetections, check_detections

_AREAS = ("all", "small", "medium", "large")


def coco_metrics(split: Split, detections: Sequence[ImageDetections]) -> dict[str, float]:
    """Score detections as COCO does: at most 100 per image, IoU .50:.05:.95, 101 recall points.

    Crowd regions forgive what is found in them. Sizes are split at 32² and 96² square pixels of
    the annotated area. COCO knows no difficult objects: they count like all others.

    Args:
        split: the images and what is in them.
        detections: at most one entry per image; an image without one has no detections.

    Returns:
        AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_100 and per class `AP/<class>`, each in
        0..1; NaN where the split has no object to find (a class or size that does not occur).

    Raises:
        ValueError: for detections that do not belong to the split.
    """
    check_detections(split, detections)
    evaluation = COCOeval_faster(
        _index(coco_truth(split)),
        _index({**coco_truth(split), "annotations": _with_ids(coco_results(split, detections))}),
        "bbox",
        print_function=_silent,
    )
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])  # [IoU 10, recall 101, K, area 4, max 3]
    recall = np.asarray(evaluation.eval["recall"])  # [IoU 10, K, area 4, max 3]
    everything = precision[..., 0, -1]  # [10, 101, K]
    metrics = {
        "AP": _mean(everything),
        "AP50": _mean(everything[0]),
        "AP75": _mean(everything[5]),
        **{f"AP_{area}": _mean(precision[..., _AREAS.index(area), -1]) for area in _AREAS[1:]},
        "AR_100": _mean(recall[..., 0, -1]),
    }
    by_id = sorted(range(len(split.classes)), key=lambda label: split.category_ids[label])
    for column, label in enumerate(by_id):
        metrics[f"AP/{split.classes[label]}"] = _mean(everything[..., column])
    return metrics


def coco_truth(split: Split) -> dict[str, Any]:
    """Return the split as the content of a COCO annotation file, with its own category ids."""
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
                    "bbox": _xywh(box),
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
    """Return detections in the COCO result format, ready to be written as JSON."""
    return [
        {
            "image_id": entry.image_id,
            "category_id": split.category_ids[label],
            "bbox": _xywh(box),
            "score": float(score),
        }
        for entry in detections
        for box, score, label in zip(
            entry.boxes.astype(float), entry.scores, entry.labels, strict=True
        )
    ]


def _with_ids(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for number, row in enumerate(results, start=1)
    ]


def _xywh(box: npt.NDArray[np.float64]) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def _index(dataset: dict[str, Any]) -> Any:
    index = COCO(print_function=_silent)
    index.dataset = dataset
    index.createIndex()
    return index


def _silent(*_: object) -> None:
    """Take the evaluator's progress lines."""


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean over what is defined; the evaluator marks the rest with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
