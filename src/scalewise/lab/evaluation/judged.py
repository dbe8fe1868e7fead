"""Which objects a run found and missed, and which of its detections are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.matching import box_overlaps

IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """The objects of an image and the detections of a run there, matched.

    Attributes:
        record: the image with its objects.
        kept: the k detections that are judged, best score first, without those on crowd regions.
        hits: int [k], index of the object that each detection found (same class, IoU of at least
            0.5); -1 for a wrong detection.
    """

    record: ImageRecord
    kept: ImageDetections
    hits: npt.NDArray[np.integer]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which detections found an object: bool [k]."""
        return self.hits >= 0

    @property
    def missed(self) -> npt.NDArray[np.integer]:
        """Indices of the objects that no detection found, without crowd regions: int [m]."""
        return np.setdiff1d(np.flatnonzero(~self.record.crowd), self.hits)


def judge(
    split: Split, detections: Sequence[ImageDetections], least: npt.NDArray[np.floating]
) -> list[Judged]:
    """Match the objects to the detections whose scores reach a threshold.

    Args:
        split: the images with their objects.
        detections: at most one entry per image.
        least: float [classes], the lowest score at which a detection of each class is judged.

    Returns:
        One entry per image, in the split's order.
    """
    by_image = {entry.image_id: entry for entry in detections}
    none = np.zeros(0, int)
    nothing = ImageDetections(0, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, none)
    judged = []
    for record in split.records:
        entry = by_image.get(record.image_id, nothing)
        order = np.argsort(-entry.scores, kind="stable")
        order = order[entry.scores[order] >= least[entry.labels[order]]]
        judged.append(_match(record, entry.take(order)))
    return judged


def as_many_as_objects(
    split: Split, detections: Sequence[ImageDetections]
) -> npt.NDArray[np.floating]:
    """For each class, the score that keeps as many detections as the split has objects.

    A fixed score would not be fair, since loss weights shift the scores of a run. With as many
    detections as objects, runs can be compared: each misses about as many as it gets wrong.

    Args:
        split: the images with their objects.
        detections: at most one entry per image.

    Returns:
        float64 [classes], the lowest score that is kept; the lowest score of all if a class has
        fewer detections than objects; infinite for a class without objects or detections.
    """
    least = np.full(len(split.classes), np.inf)
    for label in range(len(split.classes)):
        objects = sum(int((r.labels[~r.crowd] == label).sum()) for r in split.records)
        found = [entry.scores[entry.labels == label] for entry in detections]
        scores = np.sort(np.concatenate([np.zeros(0), *found]))[::-1][:objects]
        least[label] = scores.min(initial=np.inf)
    return least


def _match(record: ImageRecord, entry: ImageDetections) -> Judged:
    """Match each detection, best score first, to the free object of its class with the most IoU."""
    table = box_overlaps(entry.boxes, record.boxes, record.crowd)  # [k, objects]
    table[entry.labels[:, None] != record.labels] = 0
    hits = np.full(len(table), -1)
    free = ~record.crowd
    for row in np.flatnonzero(table.max(axis=1, initial=0) >= IOU):
        shares = np.where(free, table[row], 0)
        if shares.max() >= IOU:
            hits[row] = shares.argmax()
            free[hits[row]] = False
    on_crowd = (hits < 0) & (table[:, record.crowd].max(axis=1, initial=0) >= IOU)
    return Judged(record, entry.take(np.flatnonzero(~on_crowd)), hits[~on_crowd])
