"""Pooled AP, precision at the best F1, calibration and rescaled scores, on hand-made detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import score_figures
from score_figures import capped, fit_factors, rescale

from scalewise.data import ImageRecord, Split
from scalewise.lab.evaluation import ImageDetections, coco_metrics
from scalewise.lab.evaluation.matching import Matches
from scalewise.lab.evaluation.ranking import Ranking, best_f1, rank

Boxes = Sequence[tuple[float, float, float, float]]
A, B, FAR, CROWD = (0, 0, 20, 20), (30, 0, 60, 20), (70, 70, 90, 90), (0, 50, 60, 100)


def image(number: int, boxes: Boxes, labels: list[int], crowd: list[bool]) -> ImageRecord:
    edges = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id=number,
        path=Path(f"{number}.png"),
        width=100,
        height=100,
        boxes=edges,
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, bool),
        difficult=np.zeros(len(labels), bool),
        area=(edges[:, 2:] - edges[:, :2]).prod(1),
    )


def detections(
    number: int, boxes: Boxes, scores: list[float], labels: list[int]
) -> ImageDetections:
    return ImageDetections(
        image_id=number,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        levels=np.zeros(len(labels), np.int64),
    )


def judged(labels: list[int], scores: list[float], right: list[bool]) -> Ranking:
    """Detections of one image that are right or wrong at every IoU."""
    order = np.lexsort((-np.array(scores), np.array(labels)))
    states = np.repeat(np.array(right, np.int8)[order, None], 10, axis=1)
    matches = Matches(
        image_ids=np.zeros(1, np.int64),
        objects=np.ones((1, 1 + max(labels)), np.int32),
        labels=np.array(labels, np.int32)[order],
        images=np.zeros(len(labels), np.int32),
        states=states,
    )
    return Ranking(matches, np.array(scores)[order])


@pytest.fixture
def case() -> tuple[Split, list[ImageDetections]]:
    """By score over both classes: wrong (on an object of the other class), right, right."""
    split = Split(
        "coco", "val", "by hand", ("a", "b"), (1, 2),
        [image(1, [A, B], [0, 1], [False, False]), image(2, [CROWD], [0], [True])],
    )  # fmt: skip
    found = [
        detections(2, [CROWD], [0.99], [0]),  # on a crowd, so it does not count
        detections(1, [A, A, B], [0.9, 0.95, 0.5], [0, 1, 1]),
    ]
    return split, found


def test_pooled_ap_ranks_all_classes_in_one_list(case: Any) -> None:
    split, found = case
    assert coco_metrics(split, found)["AP"] == pytest.approx((1 + 1 / 2) / 2)
    # precision is 1/2 at the first object found and 2/3 at the second, so 2/3 at every recall
    assert score_figures.pooled_ap(rank(split, found)) == pytest.approx(2 / 3)
    one, other = (replace(entry, labels=entry.labels * 0) for entry in found)
    alike = replace(split, records=[replace(r, labels=r.labels * 0) for r in split.records])
    expected = coco_metrics(replace(alike, classes=("a",), category_ids=(1,)), [one, other])["AP"]
    assert score_figures.pooled_ap(rank(split, found)) < expected  # AP of a single class


def test_the_best_threshold_is_chosen_over_all_classes(case: Any) -> None:
    # F1: 0 at a threshold of 0.95, 2 / (2 + 2) at 0.9, 4 / (3 + 2) at 0.5
    assert best_f1(rank(*case)) == pytest.approx((0.5, 2 / 3, 1.0))
    split, _ = case
    assert all(math.isnan(value) for value in best_f1(rank(split, [])))
    tied = [detections(1, [A, A, B], [0.5, 0.5, 0.5], [0, 1, 1])]
    assert best_f1(rank(split, tied)) == pytest.approx((0.5, 2 / 3, 1.0))


def test_calibration_error_of_two_filled_bins() -> None:
    scores = [0.7] * 10 + [0.25] * 4 + [0.9]
    right = [True] * 6 + [False] * 4 + [True, True, False, False] + [True]
    ranking = judged([0] * 14 + [1], scores, right)
    assert score_figures.calibration_error(ranking, 0) == pytest.approx((10 * 0.1 + 4 * 0.25) / 14)
    assert score_figures.calibration_error(ranking, 1) == pytest.approx(0.1)
    assert math.isnan(score_figures.calibration_error(ranking, 2))


def test_the_factors_undo_a_known_miscalibration() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40000)
    chance = rng.random(len(labels))
    right = rng.random(len(labels)) < chance
    odds = chance / (1 - chance) * np.array([4.0, 0.2])[labels]
    scores = odds / (1 + odds)
    labels, scores, right = (
        np.append(v, w) for v, w in ((labels, 2), (scores, 0.3), (right, False))
    )
    ranking = judged(labels.tolist(), scores.tolist(), right.tolist())
    factors = fit_factors(ranking, 4)
    assert factors == pytest.approx([1 / 4, 5, 1, 1], rel=0.05)  # 1: nothing right, none found
    boxes = [FAR] * len(labels)
    (after,) = rescale([detections(1, boxes, scores.tolist(), labels.tolist())], factors)
    for label in (0, 1):
        own = labels == label
        assert after.scores[own].mean() == pytest.approx(right[own].mean(), abs=1e-4)
    assert after.scores[:-1] == pytest.approx(chance, abs=0.02)


def test_rescaling_leaves_ap_but_for_the_cap(case: Any) -> None:
    split, found = case
    scaled = rescale(found, np.array([50.0, 0.02]))
    assert coco_metrics(split, scaled)["AP"] == coco_metrics(split, found)["AP"]
    # by score they are now right, wrong, right
    assert score_figures.pooled_ap(rank(split, scaled)) == pytest.approx(
        (51 * 1 + 50 * 2 / 3) / 101
    )
    crowded = detections(1, [FAR] * 120 + [A], [0.8] * 120 + [0.4], [1] * 120 + [0])
    assert 0 not in capped([crowded])[0].labels
    assert 0 in capped(rescale([crowded], np.array([9.0, 1.0])))[0].labels
    assert len(score_figures.above([crowded], 0.5)[0].scores) == 120
