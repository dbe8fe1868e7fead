"""Which objects a run found, which it missed, and where it saw what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.split import ImageRecord, Split
from scalewise.lab.evaluation import ImageDetections

IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """The boxes of an image.

    Attributes:
        found: float [k, 4], detections on an object of their class, with an IoU of at least 0.5.
        labels: int [k], their classes.
        wrong: float [m, 4], the other detections.
        missed: float [n, 4], the objects without a detection.
    """

    found: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]
    wrong: npt.NDArray[np.floating]
    missed: npt.NDArray[np.floating]


def judge(split: Split, detections: Sequence[ImageDetections]) -> list[Judged]:
    """Judge the best detections of each class, as many as it has objects in the split.

    A fixed score would be another one for every training, since weights move scores; with as many
    detections as objects two runs are on a par, and what is missed and what is wrong are as many.

    Args:
        split: the images with their objects.
        detections: at most one entry per image.

    Returns:
        One entry per image, in the split's order.
    """
    least = _least_scores(split, detections)  # [classes]
    by_image = {entry.image_id: entry for entry in detections}
    judged = []
    for record in split.records:
        entry = by_image.get(record.image_id)
        if entry is None:
            none = np.zeros((0, 4))
            judged.append(Judged(none, np.zeros(0, int), none, record.boxes))
            continue
        order = np.argsort(-entry.scores, kind="stable")
        order = order[entry.scores[order] >= least[entry.labels[order]]]
        judged.append(_match(record, entry.boxes[order], entry.labels[order]))
    return judged


def _least_scores(split: Split, detections: Sequence[ImageDetections]) -> npt.NDArray[np.floating]:
    """The score of the last detection of each class that is judged; infinite without objects."""
    least = np.full(len(split.classes), np.inf)
    for label in range(len(split.classes)):
        objects = sum(int((record.labels == label).sum()) for record in split.records)
        found = [entry.scores[entry.labels == label] for entry in detections]
        scores = np.sort(np.concatenate([np.zeros(0), *found]))[::-1][:objects]
        least[label] = scores.min(initial=np.inf)
    return least


def _match(
    record: ImageRecord, boxes: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> Judged:
    """Give each detection, the best first, the free object of its class it overlaps most."""
    free = np.ones(len(record.boxes), dtype=bool)
    hit = np.zeros(len(boxes), dtype=bool)
    for row, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        overlaps = np.where(free & (record.labels == label), _ious(box, record.boxes), 0.0)
        if overlaps.max(initial=0.0) >= IOU:
            free[overlaps.argmax()] = False
            hit[row] = True
    return Judged(boxes[hit], labels[hit], boxes[~hit], record.boxes[free])


def _ious(
    box: npt.NDArray[np.floating], others: npt.NDArray[np.floating]
) -> npt.NDArray[np.floating]:
    """IoU [n] of a box [4] with others [n, 4]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])  # [n, 2]
    both = sides.clip(min=0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - both
    overlaps: npt.NDArray[np.floating] = both / union
    return overlaps
