"""COCO's matching, separate from its averaging, so that AP of resampled images is cheap.

Detections are matched to objects within one image. Resampling the images therefore changes no
match, only how often each match counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import ImageDetections, check_detections

Floats = npt.NDArray[np.float64]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
MOST_PER_CLASS = 100
HIT, IGNORED = 1, -1  # values of `Matches.states`; 0 is a wrong detection


@dataclass(frozen=True)
class Matches:
    """The result of COCO's matching of d detections in n images, for objects of all areas.

    Attributes:
        image_ids: int64 [n], ascending.
        objects: int32 [n, classes], objects to find in each image, without crowd regions.
        labels: int32 [d], ascending; within a class the best score comes first.
        images: int32 [d], index into `image_ids`.
        states: int8 [d, 10], for each IoU threshold .50:.05:.95: 1 if the detection found an
            object, 0 if it found none, -1 if it is on a crowd region and does not count.
    """

    image_ids: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.int32]
    states: npt.NDArray[np.int8]


def matched(split: Split, detections: Sequence[ImageDetections]) -> Matches:
    """Match detections to objects as COCO does, at most 100 detections per image and class.

    Args:
        split: the images and their objects.
        detections: at most one entry per image; an image without one has no detections.

    Raises:
        ValueError: for detections that do not belong to the split.
    """
    check_detections(split, detections)
    found = {entry.image_id: entry for entry in detections}
    records = sorted(split.records, key=lambda record: record.image_id)
    objects = np.zeros((len(records), len(split.classes)), dtype=np.int32)
    labels, images = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    scores, states = [np.zeros(0, dtype=np.float32)], [np.zeros((0, 10), dtype=np.int8)]
    for index, record in enumerate(records):
        np.add.at(objects[index], record.labels[~record.crowd], 1)
        for label, score, state in _match_image(record, found.get(record.image_id)):
            labels.append(np.full(len(score), label, dtype=np.int32))
            images.append(np.full(len(score), index, dtype=np.int32))
            scores.append(score)
            states.append(state)
    label_of, score_of = np.concatenate(labels), np.concatenate(scores)
    order = np.lexsort((-score_of, label_of))  # stable: equal scores stay in the images' order
    return Matches(
        image_ids=np.array([record.image_id for record in records], dtype=np.int64),
        objects=objects,
        labels=label_of[order],
        images=np.concatenate(images)[order],
        states=np.concatenate(states)[order],
    )


def _match_image(
    record: ImageRecord, entry: ImageDetections | None
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.int8]]]:
    """Yield label, scores [k] and states [k, 10] of each detected class, best score first."""
    if entry is None:
        return
    for label in np.unique(entry.labels).tolist():
        chosen = np.flatnonzero(entry.labels == label)
        chosen = chosen[np.argsort(-entry.scores[chosen], kind="stable")][:MOST_PER_CLASS]
        own = record.labels == label
        crowd = record.crowd[own]
        overlaps = box_overlaps(entry.boxes[chosen], record.boxes[own], crowd)
        yield label, entry.scores[chosen], _match_class(overlaps[:, ~crowd], overlaps[:, crowd])


def _match_class(overlaps: Floats, on_crowds: Floats) -> npt.NDArray[np.int8]:
    """Return states [k, 10] of k detections, best first, from IoU [k, objects] and [k, crowds].

    At each threshold a detection takes the free object with the highest IoU, the later one if two
    are equal. If there is none, it may match a crowd region; these stay free for others.
    """
    count, objects = overlaps.shape
    states = np.zeros((count, len(THRESHOLDS)), dtype=np.int8)
    if on_crowds.shape[1]:
        states[on_crowds.max(axis=1)[:, None] >= THRESHOLDS] = IGNORED
    if not objects:
        return states
    free = np.ones((len(THRESHOLDS), objects), dtype=np.bool_)
    every = np.arange(len(THRESHOLDS))
    for row in np.flatnonzero(overlaps.max(axis=1) >= THRESHOLDS[0]):
        candidates = np.where(free, overlaps[row], -1.0)  # [10, objects]
        best = objects - 1 - candidates[:, ::-1].argmax(axis=1)
        hit = candidates[every, best] >= THRESHOLDS
        free[every[hit], best[hit]] = False
        states[row, hit] = HIT
    return states


def box_overlaps(
    detected: npt.NDArray[np.float32],
    objects: npt.NDArray[np.float32],
    crowd: npt.NDArray[np.bool_],
) -> Floats:
    """IoU of detections and objects; for a crowd region, the share of the detection inside it.

    Args:
        detected: [d, 4], (x1, y1, x2, y2).
        objects: [g, 4], (x1, y1, x2, y2).
        crowd: bool [g], whether each object is a crowd region.

    Returns:
        float64 [d, g] in 0..1.
    """
    p, q = detected.astype(np.float64)[:, None], objects.astype(np.float64)[None]
    sides = np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2])
    both = sides.clip(min=0).prod(-1)
    own = (p[..., 2:] - p[..., :2]).prod(-1)
    union = own + np.where(crowd, 0, (q[..., 2:] - q[..., :2]).prod(-1) - both)
    result: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return result
