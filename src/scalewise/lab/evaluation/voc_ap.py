"""The Pascal VOC metrics (Everingham et al., IJCV 2010 and 2015; the VOC development kit)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import ImageDetections, check_detections

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


def voc_metrics(
    split: Split, detections: Sequence[ImageDetections], iou: float = 0.5
) -> dict[str, float]:
    """Score detections as the VOC development kit does.

    Each detection, best score first, is matched to the object of its class that it overlaps most.
    If the overlap is at least `iou`, the detection is right if that object was not yet found, wrong
    if it was, and ignored if the object is difficult or a crowd region. With less overlap it is
    wrong. Recalls are compared exactly, as ratios of counts.

    Args:
        split: the images and their objects.
        detections: at most one entry per image; an image without one has no detections.
        iou: lowest overlap at which a detection is right.

    Returns:
        `VOC_AP50_11`, the mean over classes of the precision sampled at 11 recalls (VOC2007),
        `VOC_AP50_area`, the mean of the area under the curve (since VOC2010), and both for each
        class, as `VOC_AP50_11/<class>`; each in 0..1. A class without an object that counts is NaN
        and is left out of the means. The 50 in the names is `iou` in percent.

    Raises:
        ValueError: for detections that do not belong to the split.

    Examples:
        >>> from scalewise.data import open_split
        >>> from scalewise.lab.evaluation import voc_metrics
        >>> voc_metrics(open_split("demo:images=10,size=64", "val"), [])["VOC_AP50_area"]
        0.0
    """
    check_detections(split, detections)
    prefix = f"VOC_AP{round(100 * iou)}"
    eleven, area = {}, {}
    labels, states, positives = _match(split, detections, iou)
    for label, name in enumerate(split.classes):
        hits = states[labels == label]
        hits = hits[hits >= 0]
        true = np.cumsum(hits)
        precision = true / np.arange(1, len(hits) + 1)
        eleven[f"{prefix}_11/{name}"] = _eleven_points(true, precision, int(positives[label]))
        area[f"{prefix}_area/{name}"] = _area(true, precision, int(positives[label]))
    return {
        f"{prefix}_11": _mean(list(eleven.values())),
        f"{prefix}_area": _mean(list(area.values())),
        **eleven,
        **area,
    }


def _match(
    split: Split, detections: Sequence[ImageDetections], iou: float
) -> tuple[Whole, Whole, Whole]:
    """Match all detections of all images and classes at once.

    Returns:
        Labels [d] and states [d] of the detections, best score first (1 right, 0 wrong, -1
        ignored), and the number of objects to find of each class [classes].
    """
    classes, records = len(split.classes), split.records
    found = {entry.image_id: entry for entry in detections}
    entries = [found.get(record.image_id) for record in records]
    own = [(image, entry) for image, entry in enumerate(entries) if entry is not None]
    boxes = _joined([entry.boxes for _, entry in own], (0, 4))  # [d, 4]
    scores = _joined([entry.scores for _, entry in own], (0,))
    labels = _joined([entry.labels for _, entry in own], (0,)).astype(np.int64)
    image = np.repeat([i for i, _ in own], [len(entry.labels) for _, entry in own]).astype(np.int64)
    objects = _joined([record.boxes for record in records], (0, 4))  # [g, 4]
    classed = _joined([record.labels for record in records], (0,)).astype(np.int64)
    ignored = _joined([record.difficult | record.crowd for record in records], (0,)).astype(bool)
    home = np.repeat(np.arange(len(records)), [len(record.labels) for record in records])
    # sort objects by image and class, so that those a detection may find are neighbours
    sequence = np.argsort(home * classes + classed, kind="stable")
    objects, ignored = objects[sequence], ignored[sequence]
    places = (home * classes + classed)[sequence]
    order = np.argsort(-scores, kind="stable")
    wanted = (image * classes + labels)[order]
    first, last = np.searchsorted(places, wanted), np.searchsorted(places, wanted, side="right")
    best, overlap = _best(boxes[order], objects, first, last)
    reaches = overlap >= iou
    states = np.zeros(len(order), dtype=np.int64)
    _, finders = np.unique(best[reaches], return_index=True)  # the best of each object
    states[np.flatnonzero(reaches)[finders]] = 1
    states[reaches] = np.where(ignored[best[reaches]], -1, states[reaches])
    positives = np.bincount(classed[~ignored[np.argsort(sequence)]], minlength=classes)
    return labels[order], states, positives


def _best(
    boxes: npt.NDArray[np.float32], objects: npt.NDArray[np.float32], first: Whole, last: Whole
) -> tuple[Whole, Floats]:
    """For each of d boxes, the object with the highest IoU (the first if equal), and this IoU.

    Args:
        boxes: [d, 4].
        objects: [g, 4].
        first: [d], index of the first object that each box may find.
        last: [d], one more than the index of the last; equal to `first` where there is none.

    Returns:
        Index of the object [d], -1 for none, and IoU [d], -1 for none.
    """
    counts = last - first
    start = np.cumsum(counts) - counts  # [d], where the pairs of each box begin
    box = np.repeat(np.arange(len(boxes)), counts)  # [p], all pairs
    other = np.arange(len(box)) - start[box] + first[box]
    values = _overlaps(boxes[box], objects[other])
    some = np.flatnonzero(counts)
    best, overlap = np.full(len(boxes), -1), np.full(len(boxes), -1.0)
    if len(some):
        overlap[some] = np.maximum.reduceat(values, start[some])
        rank = np.where(values == overlap[box], other, len(objects))
        best[some] = np.minimum.reduceat(rank, start[some])
    return best, overlap


def _overlaps(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    """Return the IoU float64 [p] of p pairs of boxes."""
    p, q = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(p[:, 2:], q[:, 2:]) - np.maximum(p[:, :2], q[:, :2])
    both = sides.clip(min=0).prod(-1)
    union = (p[:, 2:] - p[:, :2]).prod(-1) + (q[:, 2:] - q[:, :2]).prod(-1) - both
    result: Floats = both / np.maximum(union, 1e-12)
    return result


def _joined(parts: list[Any], empty: tuple[int, ...]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(empty)


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
