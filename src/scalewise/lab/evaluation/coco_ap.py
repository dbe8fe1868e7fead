"""The COCO metrics (Lin et al., ECCV 2014; cocodataset.org, "detection evaluation")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hotcoco import COCO, COCOeval

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import ImageDetections, check_detections

_AREAS = ("all", "small", "medium", "large")


def coco_metrics(
    split: Split, detections: Sequence[ImageDetections], truth: dict[str, Any] | None = None
) -> dict[str, float]:
    """Score detections as COCO does: at most 100 per image, IoU .50:.05:.95, 101 recall points.

    Detections inside a crowd region do not count. Objects are small, medium or large by their
    annotated area, with limits at 32² and 96² square pixels. COCO has no difficult objects: they
    count like all others.

    Args:
        split: the images and their objects.
        detections: at most one entry per image; an image without one has no detections.
        truth: the content of a COCO file to score against; None takes the split's objects.

    Returns:
        AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_100 and `AP/<class>` of each class, each
        in 0..1; NaN where there is no object to find (a class or size that does not occur).

    Raises:
        ValueError: for detections that do not belong to the split.

    Examples:
        >>> import numpy as np
        >>> from scalewise.data import open_split
        >>> from scalewise.lab.evaluation import ImageDetections, coco_metrics
        >>> split = open_split("demo:images=10,size=64", "val")
        >>> perfect = [
        ...     ImageDetections(r.image_id, r.boxes, np.ones(len(r.boxes)), r.labels, r.labels)
        ...     for r in split.records
        ... ]
        >>> round(coco_metrics(split, perfect)["AP"], 4)
        1.0
        >>> coco_metrics(split, [])["AP"]
        0.0
    """
    check_detections(split, detections)
    index = _index(split) if truth is None else COCO(truth)
    evaluation = COCOeval(index, index.load_res(_table(split, detections)), "bbox")
    evaluation.params.cat_ids = sorted(split.category_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    curves = evaluation.eval
    assert curves is not None
    precision = np.asarray(curves["precision"])  # [IoU 10, recall 101, K, area 4, max 3]
    recall = np.asarray(curves["recall"])  # [IoU 10, K, area 4, max 3]
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


def _index(split: Split) -> COCO:
    """Build the evaluator's index of a split: the objects of `coco_truth`, from whole columns."""
    records = split.records
    boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in records)])
    labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
    return COCO.from_arrays(
        [{"id": r.image_id, "width": r.width, "height": r.height} for r in records],
        [
            {"id": category, "name": name}
            for category, name in sorted(zip(split.category_ids, split.classes, strict=True))
        ],
        np.repeat(_ids(records), [len(record.labels) for record in records]),
        np.array(split.category_ids, dtype=np.int64)[labels],
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        area=np.concatenate([np.zeros(0), *(record.area for record in records)]),
        iscrowd=np.concatenate([np.zeros(0, bool), *(record.crowd for record in records)]),
    )


def _table(split: Split, detections: Sequence[ImageDetections]) -> npt.NDArray[np.float64]:
    """The detections, float64 [d, 7]: image, x, y, width, height, score, category."""
    boxes = np.concatenate([np.zeros((0, 4)), *(entry.boxes for entry in detections)])
    labels = np.concatenate([np.zeros(0, np.int64), *(entry.labels for entry in detections)])
    return np.column_stack(
        [
            np.repeat(_ids(detections), [len(entry.labels) for entry in detections]),
            boxes[:, :2],
            boxes[:, 2:] - boxes[:, :2],
            np.concatenate([np.zeros(0), *(entry.scores for entry in detections)]),
            np.array(split.category_ids)[labels],
        ]
    )


def _ids(images: Sequence[ImageRecord | ImageDetections]) -> npt.NDArray[np.int64]:
    return np.array([image.image_id for image in images], dtype=np.int64)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean of the defined values; the evaluator marks undefined ones with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
