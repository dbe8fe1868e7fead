from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalewise.data import ImageRecord, Split
from scalewise.errors import UserError
from scalewise.lab.evaluation import ImageDetections, coco_metrics
from scalewise.lab.evaluation.match_curves import average_precision
from scalewise.lab.evaluation.match_files import load_matches, save_matches
from scalewise.lab.evaluation.matching import matched

_KEYS = ("AP", "AP50", "AP75")


def _boxes(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    corner = rng.integers(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.integers(4, 50, (count, 2))], 1).astype(np.float32)


def _random_case(seed: int, decimals: int) -> tuple[Split, list[ImageDetections]]:
    """Images with crowds; some have no objects, no detections, or over 100 detections."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for image_id in rng.permutation(40)[: rng.integers(1, 7)].tolist():
        count = int(rng.integers(0, 10))
        boxes, labels = _boxes(rng, count), rng.integers(0, 3, count)
        records.append(
            ImageRecord(
                image_id=image_id,
                path=Path(f"{image_id}.jpg"),
                width=128,
                height=128,
                boxes=boxes,
                labels=labels,
                crowd=rng.random(count) < 0.25,
                difficult=np.zeros(count, dtype=bool),
                area=(boxes[:, 2:] - boxes[:, :2]).prod(1),
            )
        )
        if rng.random() < 0.2:
            continue
        copies = np.repeat(np.arange(count), rng.integers(1, 4))
        near = boxes[copies] + rng.integers(-4, 5, (len(copies), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        false = int(rng.choice([0, 5, 150]))
        total = len(copies) + false
        detections.append(
            ImageDetections(
                image_id=image_id,
                boxes=np.concatenate([near, _boxes(rng, false)]).astype(np.float32),
                scores=rng.random(total).round(decimals).astype(np.float32),
                labels=np.concatenate([labels[copies], rng.integers(0, 3, false)]),
                levels=np.zeros(total, dtype=np.int64),
            )
        )
    return Split("coco", "val", "random", ("a", "b", "c"), (30, 4, 9), records), detections


def _assert_same(ours: npt.NDArray[np.float64], metrics: dict[str, float]) -> None:
    for value, key in zip(ours.tolist(), _KEYS, strict=True):
        if math.isnan(metrics[key]):
            assert math.isnan(value), key
        else:
            assert value == pytest.approx(metrics[key], abs=1e-6), key


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_each_image_once_is_the_coco_metric(seed: int, decimals: int) -> None:
    """Scores tie within and between images, and some IoUs equal a threshold."""
    split, detections = _random_case(seed, decimals)
    counts = np.ones(len(split.records), dtype=np.int64)
    _assert_same(
        average_precision(matched(split, detections), counts), coco_metrics(split, detections)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_counts_are_images_that_occur_as_often(seed: int) -> None:
    split, detections = _random_case(seed, 16)
    matches = matched(split, detections)
    found = {entry.image_id: entry for entry in detections}
    resamples = np.random.default_rng(seed).integers(0, 4, (5, len(split.records)))
    ours = average_precision(matches, resamples)
    assert ours.shape == (5, 3)
    for row, counts in zip(ours, resamples.tolist(), strict=True):
        records, copies = [], []
        by_id = sorted(split.records, key=lambda record: record.image_id)
        for record, count in zip(by_id, counts, strict=True):
            for copy in range(count):
                image_id = 10 * record.image_id + copy
                records.append(replace(record, image_id=image_id))
                if record.image_id in found:
                    copies.append(replace(found[record.image_id], image_id=image_id))
        if records:
            _assert_same(row, coco_metrics(replace(split, records=records), copies))
        else:
            assert np.isnan(row).all()


def test_by_hand() -> None:
    """A right detection (score 0.9, IoU 0.81) in one image, a wrong one (0.95) in the other."""

    def record(image_id: int, boxes: list[list[float]]) -> ImageRecord:
        count = len(boxes)
        return ImageRecord(
            image_id=image_id,
            path=Path("x.jpg"),
            width=200,
            height=200,
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.zeros(count, dtype=np.int64),
            crowd=np.zeros(count, dtype=bool),
            difficult=np.zeros(count, dtype=bool),
            area=np.full(count, 100, dtype=np.float32),
        )

    def found(image_id: int, box: list[float], score: float) -> ImageDetections:
        return ImageDetections(
            image_id=image_id,
            boxes=np.array([box], dtype=np.float32),
            scores=np.array([score], dtype=np.float32),
            labels=np.zeros(1, dtype=np.int64),
            levels=np.zeros(1, dtype=np.int64),
        )

    split = Split("coco", "val", "x", ("x",), (1,), [record(2, [[0, 0, 100, 100]]), record(1, [])])
    matches = matched(split, [found(2, [0, 0, 100, 81], 0.9), found(1, [0, 0, 9, 9], 0.95)])
    assert matches.image_ids.tolist() == [1, 2]
    assert matches.states.tolist() == [[0] * 10, [1] * 7 + [0] * 3]
    # image 1 and its wrong detection count k times: precision 1/(1 + k), at 7 of 10 thresholds
    counts = np.array([[0, 1], [1, 1], [3, 1], [3, 2], [1, 0]])
    expected = [1.0, 1 / 2, 1 / 4, 2 / 5, math.nan]
    np.testing.assert_allclose(average_precision(matches, counts)[:, 1], expected)
    np.testing.assert_allclose(average_precision(matches, counts)[:, 0], 0.7 * np.array(expected))


def test_stored_and_read_back(tmp_path: Path) -> None:
    matches = matched(*_random_case(3, 4))
    save_matches(tmp_path / "matches.npz", matches)
    assert [path.name for path in tmp_path.iterdir()] == ["matches.npz"]
    back = load_matches(tmp_path / "matches.npz")
    for name, value in vars(matches).items():
        np.testing.assert_array_equal(getattr(back, name), value)
        assert getattr(back, name).dtype == value.dtype


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "matches.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="holds no stored matches"):
        load_matches(path)


def test_wrong_number_of_counts_is_refused() -> None:
    split, detections = _random_case(3, 4)
    with pytest.raises(ValueError, match=f"matches of {len(split.records)}"):
        average_precision(matched(split, detections), np.ones(len(split.records) + 1, dtype=int))
