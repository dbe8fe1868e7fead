"""AP of resampled images, computed from stored matches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scalewise.lab.evaluation.matching import HIT, IGNORED, THRESHOLDS, Floats, Matches

_RECALLS: Floats = np.linspace(0, 1, 101)
_IOU50, _IOU75 = 0, 5  # columns of the states
_CHUNK = 128


def average_precision(matches: Matches, counts: npt.NDArray[np.integer]) -> Floats:
    """Compute AP, AP50 and AP75 of a split in which image i occurs `counts[..., i]` times.

    If all counts are 1, these are the values of `coco_metrics`.

    Args:
        matches: matches of n images.
        counts: integers [..., n], at least 0; leading axes are resamples. Many resamples in one
            call are faster than many calls.

    Returns:
        [..., 3] in 0..1: AP, AP50, AP75, each the mean over the classes that have an object in
        the counted images; NaN where no class has one.

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
    """The detections of one class, reduced to those that can change its AP."""

    def __init__(self, matches: Matches, label: int) -> None:
        first, last = np.searchsorted(matches.labels, [label, label + 1])
        states = matches.states[first:last]
        hits = np.flatnonzero((states == HIT).any(axis=1))
        last = first + (hits[-1] + 1 if len(hits) else 0)  # what follows does not change AP
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
            hits = np.flatnonzero(state == HIT)
            if not len(hits):
                continue
            counted = ranks[:, hits]
            ignored = np.flatnonzero(state == IGNORED)
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
    """Average the precision at 101 recalls; at each, the best precision at this recall or more.

    Args:
        true: [b, h], right detections up to and including each of h hits.
        counted: [b, h], right and wrong detections up to and including each hit.
        positives: [b], objects to find.
    """
    precision = true / (counted + np.spacing(1.0))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(_RECALLS, true / positives[:, None], side="right")  # [b, h]
    result: Floats = (envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(_RECALLS)
    return result
