"""The Pascal VOC metrics (Everingham et al., IJCV 2010 and 2015; the VOC development kit)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scalewise.data import Split
from scalewise.evaluation.detections import ImageDetections, check_detections

Floats = npt.NDArray[np.float64]


def voc_metrics(
    split: Split, detections: Sequence[ImageDetections], iou: float = 0.5
) -> dict[str, float]:
    """Score detections as the VOC development kit does.

    Each detection, best first, goes to the object of its class that it overlaps most. With an
    overlap of at least `iou` it is right if that object was not yet found, wrong if it was, and
    ignored if the object is difficult (or a crowd region). Sampled recalls are compared exactly,
    as ratios of counts.

    Args:
        split: the images and what is in them.
        detections: at most one entry per image; an image without one has no detections.
        iou: overlap from which a detection is right.

    Returns:
        `VOC_AP50_11`, the mean over classes of the precision sampled at 11 recalls (VOC2007), and
        `VOC_AP50_area`, that of the area under the curve (VOC2010 on), and both per class as
        `VOC_AP50_11/<class>`, each in 0..1. A class without a countable object is NaN and left out
        of the means; the 50 stands for `iou` in percent.

    Raises:
        ValueError: for detections that do not belong to the split.
    """
    check_detections(split, detections)
    found = {entry.image_id: entry for entry in detections}
    prefix = f"VOC_AP{round(100 * iou)}"
    eleven, area = {}, {}
    for label, name in enumerate(split.classes):
        hits, positives = _match_class(split, found, label, iou)
        true = np.cumsum(hits)
        precision = true / np.arange(1, len(hits) + 1)
        eleven[f"{prefix}_11/{name}"] = _eleven_points(true, precision, positives)
        area[f"{prefix}_area/{name}"] = _area(true, precision, positives)
    return {
        f"{prefix}_11": _mean(list(eleven.values())),
        f"{prefix}_area": _mean(list(area.values())),
        **eleven,
        **area,
    }


def _match_class(
    split: Split, found: dict[int, ImageDetections], label: int, iou: float
) -> tuple[npt.NDArray[np.int64], int]:
    """Return 1 (right) or 0 per counted detection of a class, best first, and the positives."""
    scores, states = [], []  # states: 1 right, 0 wrong, -1 ignored
    positives = 0
    for record in split.records:
        own = record.labels == label
        ignored = (record.difficult | record.crowd)[own]  # [g]
        positives += int((~ignored).sum())
        entry = found.get(record.image_id)
        if entry is None:
            continue
        chosen = np.flatnonzero(entry.labels == label)
        chosen = chosen[np.argsort(-entry.scores[chosen], kind="stable")]
        overlaps = _overlaps(entry.boxes[chosen], record.boxes[own])  # [d, g]
        taken = np.zeros(len(ignored), dtype=bool)
        for score, row in zip(entry.scores[chosen], overlaps, strict=True):
            best = int(row.argmax()) if row.size else -1
            state = 0
            if best >= 0 and row[best] >= iou:
                state = -1 if ignored[best] else int(not taken[best])
                taken[best] = True
            scores.append(score)
            states.append(state)
    ranked = np.array(states, dtype=np.int64)[np.argsort(-np.array(scores), kind="stable")]
    counted: npt.NDArray[np.int64] = ranked[ranked >= 0]
    return counted, positives


def _overlaps(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    """Return the IoU float64 [d, g] of boxes [d, 4] and [g, 4]."""
    p, q = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2])
    both = sides.clip(min=0).prod(-1)  # [d, g]
    union = (p[..., 2:] - p[..., :2]).prod(-1) + (q[..., 2:] - q[..., :2]).prod(-1) - both
    result: Floats = both / np.maximum(union, 1e-12)
    return result


def _eleven_points(true: npt.NDArray[np.int64], precision: Floats, positives: int) -> float:
    if not positives:
        return float("nan")
    best = [precision[10 * true >= step * positives].max(initial=0.0) for step in range(11)]
    return float(np.mean(best))


def _area(true: npt.NDArray[np.int64], precision: Floats, positives: int) -> float:
    if not positives:
        return float("nan")
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(true, prepend=0)
    return float((envelope * steps).sum() / positives)


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
