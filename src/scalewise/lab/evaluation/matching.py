"""COCO's matching kept apart from its averaging, so that AP is cheap under resampled images.

Which detection finds which object is decided within an image. Resampling images therefore changes
no match, only how often each one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scalewise.errors import UserError
from scalewise.files import whole
from scalewise.lab.data.split import ImageRecord, Split
from scalewise.lab.evaluation.detections import ImageDetections, check_detections

Floats = npt.NDArray[np.float64]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
MOST_PER_CLASS = 100
_RECALLS: Floats = np.linspace(0, 1, 101)
_IOU50, _IOU75 = 0, 5
_HIT, _IGNORED = 1, -1
_CHUNK = 128


@dataclass(frozen=True)
class Matches:
    """What COCO's evaluation knows of d detections in n images after matching; areas: all.

    Attributes:
        image_ids: int64 [n], ascending.
        objects: int32 [n, classes], objects to find per image; crowds are none.
        labels: int32 [d], ascending; within a class the best score comes first.
        images: int32 [d], index into `image_ids`.
        states: int8 [d, 10] per IoU .50:.05:.95: 1 found an object, 0 found none, -1 is on a crowd
            and does not count.
    """

    image_ids: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.int32]
    states: npt.NDArray[np.int8]


def matched(split: Split, detections: Sequence[ImageDetections]) -> Matches:
    """Match detections to objects as COCO does, at most 100 detections per image and class.

    Args:
        split: the images and what is in them.
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
    """Yield label, scores [k] and states [k, 10] per class that was detected, best first."""
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

    At each threshold a detection takes the free object that it overlaps most, the later one of
    two alike; failing that, a crowd, which stays free.
    """
    count, objects = overlaps.shape
    states = np.zeros((count, len(THRESHOLDS)), dtype=np.int8)
    if on_crowds.shape[1]:
        states[on_crowds.max(axis=1)[:, None] >= THRESHOLDS] = _IGNORED
    if not objects:
        return states
    free = np.ones((len(THRESHOLDS), objects), dtype=np.bool_)
    every = np.arange(len(THRESHOLDS))
    for row in np.flatnonzero(overlaps.max(axis=1) >= THRESHOLDS[0]):
        candidates = np.where(free, overlaps[row], -1.0)  # [10, objects]
        best = objects - 1 - candidates[:, ::-1].argmax(axis=1)
        hit = candidates[every, best] >= THRESHOLDS
        free[every[hit], best[hit]] = False
        states[row, hit] = _HIT
    return states


def box_overlaps(
    detected: npt.NDArray[np.float32],
    objects: npt.NDArray[np.float32],
    crowd: npt.NDArray[np.bool_],
) -> Floats:
    """IoU of detections with objects; with a crowd, the share of the detection that lies in it.

    Args:
        detected: [d, 4], (x1, y1, x2, y2).
        objects: [g, 4].
        crowd: [g].

    Returns:
        [d, g] in 0..1.
    """
    p, q = detected.astype(np.float64)[:, None], objects.astype(np.float64)[None]
    sides = np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2])
    both = sides.clip(min=0).prod(-1)
    own = (p[..., 2:] - p[..., :2]).prod(-1)
    union = own + np.where(crowd, 0, (q[..., 2:] - q[..., :2]).prod(-1) - both)
    result: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return result


def average_precision(matches: Matches, counts: npt.NDArray[np.integer]) -> Floats:
    """Compute AP, AP50 and AP75 of a split in which image i occurs `counts[..., i]` times.

    With counts of one these are `coco_metrics`' figures.

    Args:
        matches: of n images.
        counts: integers [..., n], at least 0; leading axes are resamples, best given many at once.

    Returns:
        [..., 3] in 0..1: AP, AP50, AP75, each the mean over the classes that have an object among
        the images counted; NaN where none has.

    Raises:
        ValueError: when the last axis of `counts` is not n.
    """
    images = len(matches.image_ids)
    if counts.shape[-1] != images:
        raise ValueError(f"counts of {counts.shape[-1]} images for matches of {images}")
    flat = counts.reshape(-1, images)
    classes = [_ClassCurve(matches, label) for label in range(matches.objects.shape[1])]
    parts = [
        _mean_over_classes(classes, flat[start : start + _CHUNK])
        for start in range(0, len(flat), _CHUNK)
    ]
    return np.concatenate([np.zeros((0, 3)), *parts]).reshape(*counts.shape[:-1], 3)


def _mean_over_classes(classes: list[_ClassCurve], counts: npt.NDArray[np.integer]) -> Floats:
    total, defined = np.zeros((len(counts), 3)), np.zeros((len(counts), 1))
    for curve in classes:
        positives = counts @ curve.objects  # [b]
        there = positives > 0
        if there.any():
            total[there] += curve.precision(counts[there], positives[there])
            defined[there] += 1
    return np.divide(total, defined, out=np.full_like(total, np.nan), where=defined > 0)


class _ClassCurve:
    """The detections of one class, reduced to what its precision and recall depend on."""

    def __init__(self, matches: Matches, label: int) -> None:
        first, last = np.searchsorted(matches.labels, [label, label + 1])
        states = matches.states[first:last]
        hits = np.flatnonzero((states == _HIT).any(axis=1))
        last = first + (hits[-1] + 1 if len(hits) else 0)  # what follows the last hit costs nothing
        self.objects = matches.objects[:, label].astype(np.int64)
        self.images = matches.images[first:last]
        self.states = matches.states[first:last]

    def precision(
        self, counts: npt.NDArray[np.integer], positives: npt.NDArray[np.integer]
    ) -> Floats:
        """Return AP, AP50, AP75 [b, 3] for counts [b, n] and objects to find [b]."""
        weights = counts[:, self.images].astype(np.int32)  # [b, d]
        ranks = weights.cumsum(axis=1, dtype=np.int32)
        columns = np.zeros((len(counts), len(THRESHOLDS)))
        for column in range(len(THRESHOLDS)):
            state = self.states[:, column]
            hits = np.flatnonzero(state == _HIT)
            if not len(hits):
                continue
            counted = ranks[:, hits]
            ignored = np.flatnonzero(state == _IGNORED)
            if len(ignored):
                before = np.searchsorted(ignored, hits)
                gone = weights[:, ignored].cumsum(axis=1)
                counted = counted - np.pad(gone, ((0, 0), (1, 0)))[:, before]
            true = weights[:, hits].cumsum(axis=1)
            columns[:, column] = _sampled(true, counted, positives)
        return np.stack([columns.mean(axis=1), columns[:, _IOU50], columns[:, _IOU75]], axis=1)


def _sampled(
    true: npt.NDArray[np.integer],
    counted: npt.NDArray[np.integer],
    positives: npt.NDArray[np.integer],
) -> Floats:
    """Average the best precision at or beyond each of 101 recalls.

    Args:
        true: [b, h] detections found right up to and with each of h hits.
        counted: [b, h] detections that count up to and with it.
        positives: [b] objects to find.
    """
    precision = true / (counted + np.spacing(1.0))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(_RECALLS, true / positives[:, None], side="right")  # [b, h]
    result: Floats = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(_RECALLS)
    return result


def save_matches(path: Path, matches: Matches) -> None:
    """Write matches as a compressed .npz without pickled objects."""
    with whole(path) as aside:
        np.savez_compressed(aside, **vars(matches))


def load_matches(path: Path) -> Matches:
    """Read what `save_matches` wrote.

    Raises:
        UserError: when the file is missing or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = Matches(**{name: stored[name] for name in Matches.__dataclass_fields__})
            _require_shapes(found)
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} holds no stored matches: {reason}") from None
    return found


def _require_shapes(matches: Matches) -> None:
    images, detections = len(matches.image_ids), len(matches.labels)
    if (
        matches.objects.shape[:1] != (images,)
        or matches.objects.ndim != 2
        or matches.images.shape != (detections,)
        or matches.states.shape != (detections, len(THRESHOLDS))
        or (detections and not 0 <= matches.images.min() <= matches.images.max() < images)
    ):
        raise ValueError("its parts do not fit each other")
