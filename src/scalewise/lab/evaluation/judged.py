"""Which objects a run found, which it missed, and where it saw what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.split import ImageRecord, Split
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.matching import box_overlaps

IOU = 0.5


@dataclass(frozen=True)
class Judged:
    """What became of an image's objects and of a run's best detections there.

    Attributes:
        record: the image with its objects.
        kept: the k detections that are judged, the best first, without those on crowds.
        hits: int [k], the object that each found, of its class and with an IoU of at least 0.5;
            -1 for a wrong one.
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
        """The objects that no detection found; crowds are none: int [m]."""
        return np.setdiff1d(np.flatnonzero(~self.record.crowd), self.hits)


def judge(
    split: Split, detections: Sequence[ImageDetections], least: npt.NDArray[np.floating]
) -> list[Judged]:
    """Match the detections of at least a score to the objects.

    Args:
        split: the images with their objects.
        detections: at most one entry per image.
        least: [classes], the score of each class from which on a detection is judged.

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
    """For each class the score above which it has as many detections as objects in the split.

    A fixed score would be another one for every training, since weights move scores; with as many
    detections as objects two runs are on a par, and what is missed and what is wrong are as many.

    Args:
        split: the images with their objects.
        detections: at most one entry per image.

    Returns:
        [classes]; infinite for a class without objects.
    """
    least = np.full(len(split.classes), np.inf)
    for label in range(len(split.classes)):
        objects = sum(int((r.labels[~r.crowd] == label).sum()) for r in split.records)
        found = [entry.scores[entry.labels == label] for entry in detections]
        scores = np.sort(np.concatenate([np.zeros(0), *found]))[::-1][:objects]
        least[label] = scores.min(initial=np.inf)
    return least


def _match(record: ImageRecord, entry: ImageDetections) -> Judged:
    """Give each detection, the best first, the free object of its class it overlaps most."""
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
