from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalewise.data import ImageRecord, Split
from scalewise.lab.evaluation import ImageDetections, voc_metrics

Box = tuple[float, float, float, float]


def _record(
    image_id: int, boxes: list[Box], labels: list[int], difficult: list[bool]
) -> ImageRecord:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id=image_id,
        path=Path(f"{image_id}.jpg"),
        width=100,
        height=100,
        boxes=array,
        labels=np.array(labels, dtype=np.int64),
        crowd=np.zeros(len(boxes), dtype=bool),
        difficult=np.array(difficult, dtype=bool),
        area=(array[:, 2:] - array[:, :2]).prod(1),
    )


def _found(
    image_id: int, boxes: list[Box], scores: list[float], labels: list[int]
) -> ImageDetections:
    return ImageDetections(
        image_id=image_id,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float32),
        labels=np.array(labels, dtype=np.int64),
        levels=np.zeros(len(boxes), dtype=np.int64),
    )


def _split(*records: ImageRecord) -> Split:
    return Split("voc", "val", "made up", ("x", "y"), (1, 2), list(records))


def _pixel_overlap(a: Box, b: Box) -> Fraction:
    """The devkit's overlap, in 1-based pixels with + 1; boxes are given as 0-based edges."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (
        (int(x1) + 1, int(y1) + 1, int(x2), int(y2)) for x1, y1, x2, y2 in (a, b)
    )
    width = min(ax2, bx2) - max(ax1, bx1) + 1
    height = min(ay2, by2) - max(ay1, by1) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    both = (ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1)
    return Fraction(width * height, both - width * height)


def _devkit(
    split: Split, detections: list[ImageDetections], label: int, least: Fraction
) -> tuple[float, float]:
    """AP at 11 points and by area, one detection at a time, in exact fractions."""
    objects = {
        record.image_id: [
            (box, bool(difficult))
            for box, own, difficult in zip(
                record.boxes.tolist(), record.labels, record.difficult, strict=True
            )
            if own == label
        ]
        for record in split.records
    }
    positives = sum(not difficult for rows in objects.values() for _, difficult in rows)
    if not positives:
        return math.nan, math.nan
    rows = [
        (float(score), entry.image_id, box)
        for entry in detections
        for box, score, own in zip(entry.boxes.tolist(), entry.scores, entry.labels, strict=True)
        if own == label
    ]
    rows.sort(key=lambda row: -row[0])
    used: set[tuple[int, int]] = set()
    true = false = 0
    curve: list[tuple[Fraction, Fraction]] = []
    for _, image_id, box in rows:
        best, chosen = Fraction(-1), -1
        for number, (other, _) in enumerate(objects[image_id]):
            overlap = _pixel_overlap(box, other)
            if overlap > best:
                best, chosen = overlap, number
        if best >= least:
            if objects[image_id][chosen][1]:
                continue
            if (image_id, chosen) in used:
                false += 1
            else:
                used.add((image_id, chosen))
                true += 1
        else:
            false += 1
        curve.append((Fraction(true, positives), Fraction(true, true + false)))
    eleven = sum(
        max((p for r, p in curve if r >= Fraction(step, 10)), default=Fraction(0))
        for step in range(11)
    ) / Fraction(11)
    area, before = Fraction(0), Fraction(0)
    for number, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[number:])
        before = recall
    return float(eleven), float(area)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([Fraction(1, 2), Fraction(3, 4)]))
def test_equals_a_slow_loop_over_the_devkits_rules(seed: int, least: Fraction) -> None:
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> list[Box]:
        corner = rng.integers(0, 40, (count, 2))
        result: list[Box] = np.concatenate(
            [corner, corner + rng.integers(4, 30, (count, 2))], 1
        ).tolist()
        return result

    records, detections = [], []
    for image_id in range(int(rng.integers(1, 6))):
        count = int(rng.integers(0, 7))
        truth = boxes(count)
        labels = rng.integers(0, 2, count).tolist()
        records.append(_record(image_id, truth, labels, (rng.random(count) < 0.3).tolist()))
        copies = [truth[i] for i in rng.integers(0, count, 2 * count)] if count else []
        moved = [
            tuple(v + d for v, d in zip(box, rng.integers(-2, 3, 4), strict=True)) for box in copies
        ]
        found = [(a, b, max(c, a + 1), max(d, b + 1)) for a, b, c, d in moved] + boxes(4)
        scores = rng.permutation(10_000)[: len(found)] / 10_000  # no ties
        detections.append(
            _found(
                image_id,
                found,
                (scores + image_id * 1e-5).tolist(),
                rng.integers(0, 2, len(found)).tolist(),
            )
        )
    split = _split(*records)
    ours = voc_metrics(split, detections, float(least))
    prefix = f"VOC_AP{int(100 * least)}"
    expected = {name: _devkit(split, detections, k, least) for k, name in enumerate(split.classes)}
    for name, (eleven, area) in expected.items():
        assert ours[f"{prefix}_11/{name}"] == pytest.approx(eleven, abs=1e-9, nan_ok=True)
        assert ours[f"{prefix}_area/{name}"] == pytest.approx(area, abs=1e-9, nan_ok=True)
    for column, kind in enumerate(("11", "area")):
        defined = [pair[column] for pair in expected.values() if not math.isnan(pair[column])]
        mean = sum(defined) / len(defined) if defined else math.nan
        assert ours[f"{prefix}_{kind}"] == pytest.approx(mean, abs=1e-9, nan_ok=True)


_A, _B, _C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def test_by_hand() -> None:
    """Right, wrong, right, with 2 objects: precision is 1 up to recall .5, then 2/3."""
    split = _split(_record(1, [_A, _B], [0, 0], [False, False]))
    found = [_found(1, [_A, _C, _B], [0.9, 0.8, 0.7], [0, 0, 0])]
    metrics = voc_metrics(split, found)
    assert metrics["VOC_AP50_11"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert metrics["VOC_AP50_area"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics["VOC_AP50_11/x"] == metrics["VOC_AP50_11"]
    assert math.isnan(metrics["VOC_AP50_11/y"])
    assert math.isnan(metrics["VOC_AP50_area/y"])


def test_a_second_detection_of_an_object_is_wrong() -> None:
    split = _split(_record(1, [_A, _B], [0, 0], [False, False]))
    found = [_found(1, [_A, _A, _B], [0.9, 0.8, 0.7], [0, 0, 0])]
    assert voc_metrics(split, found)["VOC_AP50_area"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_difficult_objects_are_neither_wanted_nor_wrong_however_often_found() -> None:
    split = _split(_record(1, [_A, _B], [0, 0], [False, True]))
    found = [_found(1, [_B, _B, _A], [0.9, 0.8, 0.7], [0, 0, 0])]
    assert voc_metrics(split, found)["VOC_AP50_area"] == pytest.approx(1)
    assert voc_metrics(split, [])["VOC_AP50_11"] == 0


def test_overlap_of_exactly_the_threshold_is_right_and_the_best_object_decides() -> None:
    split = _split(_record(1, [_A], [0], [False]))
    half = [_found(1, [(0.0, 0.0, 10.0, 5.0)], [0.5], [0])]
    assert voc_metrics(split, half)["VOC_AP50_11"] == pytest.approx(1)
    # both detections overlap A most, so the second is not matched with A's neighbour
    split = _split(_record(1, [_A, (2.0, 0.0, 12.0, 10.0)], [0, 0], [False, False]))
    twice = [_found(1, [_A, _A], [0.9, 0.8], [0, 0])]
    assert voc_metrics(split, twice)["VOC_AP50_area"] == pytest.approx(0.5)


def test_recall_of_exactly_three_tenths_counts() -> None:
    """A recall of 3 / 10 reaches the point 0.3, though 3 * 0.1 in binary is larger."""
    boxes = [(10.0 * k, 0.0, 10.0 * k + 8, 8.0) for k in range(10)]
    split = _split(_record(1, boxes, [0] * 10, [False] * 10))
    found = [_found(1, boxes[:3], [0.9, 0.8, 0.7], [0] * 3)]
    assert voc_metrics(split, found)["VOC_AP50_11"] == pytest.approx(4 / 11)


def test_no_object_at_all_is_nan() -> None:
    metrics = voc_metrics(_split(_record(1, [], [], [])), [])
    assert all(math.isnan(value) for value in metrics.values())
