"""Batched ATSS assignment, compared with plain loops written from the paper's text."""

from __future__ import annotations

import math
import statistics

import torch
from detector_batches import operations, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalewise.lab.detectors.atss import assign
from scalewise.lab.detectors.fcos import assign as fcos_assign
from scalewise.lab.detectors.grid import Grid, make_grid

STRIDES = (8, 16, 32, 64, 128)
CLOSE = 1e-5  # closer values may be ordered either way in float32


def _grid(height: int, width: int) -> Grid:
    shapes = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
    return make_grid(shapes, STRIDES, torch.device("cpu"))


def _locations(height: int, width: int) -> list[list[tuple[float, float, int]]]:
    """(x, y, stride) of each location, per level."""
    return [
        [
            (column * s, row * s, s)
            for row in range(math.ceil(height / s))
            for column in range(math.ceil(width / s))
        ]
        for s in STRIDES
    ]


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def _reference(
    boxes: list[list[float]], height: int, width: int
) -> tuple[dict[int, int], set[int]]:
    """The object of each positive anchor, and the anchors that rounding alone decides."""
    owner: dict[int, tuple[float, int]] = {}
    unsure: set[int] = set()
    for number, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates: list[tuple[int, float, float, float]] = []
        start = 0
        for level in _locations(height, width):
            order = sorted(range(len(level)), key=lambda i: math.dist(level[i][:2], (cx, cy)))
            for i in order[:9]:
                x, y, s = level[i]
                overlap = _iou([x - 4 * s, y - 4 * s, x + 4 * s, y + 4 * s], box)
                candidates.append((start + i, overlap, x, y))
            start += len(level)
        overlaps = [overlap for _, overlap, _, _ in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for anchor, overlap, x, y in candidates:
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y)
            if abs(overlap - threshold) < CLOSE or abs(inside - 0.01) < CLOSE:
                unsure.add(anchor)
            if overlap >= threshold and inside > 0.01:
                before = owner.get(anchor, (-1.0, -1))
                if abs(overlap - before[0]) < CLOSE:
                    unsure.add(anchor)
                if overlap > before[0]:
                    owner[anchor] = (overlap, number)
    return {anchor: number for anchor, (_, number) in owner.items()}, unsure


def _compare(boxes: list[list[float]], height: int, width: int) -> int:
    """Assert equal assignments and return the number of positives compared."""
    expected, unsure = _reference(boxes, height, width)
    grid = _grid(height, width)
    tensor = torch.tensor(boxes).view(1, -1, 4)
    got = assign(grid, tensor, torch.ones(1, len(boxes), dtype=torch.bool))[0]
    compared = 0
    for anchor, number in enumerate(got.tolist()):
        if anchor not in unsure:
            assert number == expected.get(anchor, len(boxes)), (anchor, boxes, height, width)
            compared += number < len(boxes)
    return compared


side = st.sampled_from([32, 64, 96, 160, 224])
half_pixels = st.integers(-60, 600).map(lambda i: i / 2)
extent = st.integers(1, 500).map(lambda i: i / 2)
box = st.tuples(half_pixels, half_pixels, extent, extent).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(max_examples=80, deadline=None)
@given(st.lists(box, max_size=4), side, side)
def test_any_boxes_on_any_image(boxes: list[list[float]], height: int, width: int) -> None:
    _compare(boxes, height, width)


def test_many_objects_that_compete() -> None:
    compared = 0
    for seed in range(6):
        batch = random_batch(seed, 1, 25, 192, 256)
        compared += _compare(batch.boxes[0].tolist(), 192, 256)
    assert compared > 500


def test_a_batch_is_its_images() -> None:
    batch = random_batch(7, 5, 9, 128, 160)
    grid = _grid(128, 160)
    together = assign(grid, batch.boxes, batch.valid)
    for i in range(5):
        count = int(batch.valid[i].sum())
        alone = assign(grid, batch.boxes[i : i + 1, :count], batch.valid[i : i + 1, :count])[0]
        torch.testing.assert_close(
            torch.where(together[i] == 9, -1, together[i]), torch.where(alone == count, -1, alone)
        )


def test_boxes_without_area_are_never_positive() -> None:
    boxes = torch.tensor([[[32.0, 32.0, 32.0, 32.0], [16.0, 8.0, 16.0, 90.0]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    grid = _grid(96, 96)
    for method in (assign, fcos_assign):
        assert (method(grid, boxes, valid) == 2).all()


def test_a_thousand_objects_take_no_table_of_objects_by_anchors() -> None:
    batch = random_batch(8, 1, 1000, 1024, 1024)
    grid = _grid(1024, 1024)
    with operations() as seen:
        assign(grid, batch.boxes, batch.valid)
    assert seen.largest < 1000 * sum(grid.counts) / 50
