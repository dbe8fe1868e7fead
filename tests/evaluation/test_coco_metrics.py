from __future__ import annotations

import contextlib
import io
import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scalewise.data import ImageRecord, Split, open_split
from scalewise.lab.evaluation import ImageDetections, coco_metrics, coco_results, coco_truth

_KEYS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def _boxes(rng: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    corner = rng.uniform(0, 300, (count, 2))
    return np.concatenate([corner, corner + np.exp(rng.uniform(1, 5.5, (count, 2)))], 1).astype(
        np.float32
    )


def _random_split(rng: np.random.Generator) -> Split:
    records = []
    for image_id in rng.permutation(50)[: rng.integers(1, 8)]:
        count = int(rng.integers(0, 12))
        boxes = _boxes(rng, count)
        box_area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        records.append(
            ImageRecord(
                image_id=int(image_id),
                path=Path(f"{image_id}.jpg"),
                width=640,
                height=640,
                boxes=boxes,
                labels=rng.integers(0, 4, count),
                crowd=rng.random(count) < 0.2,
                difficult=np.zeros(count, dtype=bool),
                area=(box_area * rng.uniform(0.3, 1, count)).astype(np.float32),
            )
        )
    # ids with gaps, not in the order of the labels
    return Split("coco", "val", "random", ("a", "b", "c", "d"), (30, 4, 9, 17), records)


def _random_detections(rng: np.random.Generator, split: Split) -> list[ImageDetections]:
    """Return jittered copies of objects, false ones, and in some images far more than 100."""
    result = []
    for record in split.records:
        if rng.random() < 0.2:
            continue
        copies = np.repeat(np.arange(len(record.boxes)), rng.integers(1, 4))
        false = int(rng.choice([0, 5, 60, 200]))
        spread = rng.choice([1.0, 5.0, 20.0])
        near = record.boxes[copies] + rng.normal(0, spread, (len(copies), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        labels = record.labels[copies].copy()
        wrong = rng.random(len(labels)) < 0.1
        labels[wrong] = rng.integers(0, 4, int(wrong.sum()))
        count = len(copies) + false
        result.append(
            ImageDetections(
                image_id=record.image_id,
                boxes=np.concatenate([near, _boxes(rng, false)]).astype(np.float32),
                scores=np.round(rng.random(count), rng.integers(1, 7)).astype(np.float32),
                labels=np.concatenate([labels, rng.integers(0, 4, false)]),
                levels=np.zeros(count, dtype=np.int64),
            )
        )
    return result


def _official(split: Split, detections: list[ImageDetections]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(split)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(coco_results(split, detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        metrics = dict(zip(_KEYS, evaluation.stats, strict=False)) | {"AR_100": evaluation.stats[8]}
        for name, category in zip(split.classes, split.category_ids, strict=True):
            evaluation.params.catIds = [category]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            metrics[f"AP/{name}"] = evaluation.stats[0]
    return metrics


def _assert_equal(ours: dict[str, float], official: dict[str, float]) -> None:
    assert ours.keys() == official.keys()
    for name, value in official.items():
        if value == -1:
            assert math.isnan(ours[name]), name
        else:
            assert ours[name] == pytest.approx(value, abs=1e-6), name


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_pycocotools_on_random_detections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    split = _random_split(rng)
    detections = _random_detections(rng, split)
    if sum(len(entry.boxes) for entry in detections):  # pycocotools cannot read an empty list
        _assert_equal(coco_metrics(split, detections), _official(split, detections))


def test_equals_pycocotools_on_real_annotations_with_crowds() -> None:
    folder = os.environ.get("SCALEWISE_DATA")
    if not folder or not (Path(folder) / "coco256-320").is_dir():
        pytest.skip("SCALEWISE_DATA names no folder with coco256-320")
    split = open_split(Path(folder) / "coco256-320", "train")
    assert sum(int(record.crowd.sum()) for record in split.records) == 10
    detections = _random_detections(np.random.default_rng(0), split)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(split.source)  # pycocotools reads the file itself
        evaluation = COCOeval(truth, truth.loadRes(coco_results(split, detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = coco_metrics(split, detections)
    for name, value in zip(_KEYS, evaluation.stats, strict=False):
        assert ours[name] == pytest.approx(value, abs=1e-6), name


def _one(boxes: list[list[float]], **fields: list[float]) -> Split:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(array)
    record = ImageRecord(
        image_id=1,
        path=Path("1.jpg"),
        width=200,
        height=200,
        boxes=array,
        labels=np.zeros(count, dtype=np.int64),
        crowd=np.array(fields.get("crowd", [0] * count), dtype=bool),
        difficult=np.array(fields.get("difficult", [0] * count), dtype=bool),
        area=np.array(fields.get("area", [100.0] * count), dtype=np.float32),
    )
    return Split("coco", "val", "one", ("x", "never"), (1, 2), [record])


def _found(boxes: list[list[float]], scores: list[float]) -> list[ImageDetections]:
    count = len(scores)
    return [
        ImageDetections(
            image_id=1,
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            scores=np.array(scores, dtype=np.float32),
            labels=np.zeros(count, dtype=np.int64),
            levels=np.zeros(count, dtype=np.int64),
        )
    ]


def test_by_hand() -> None:
    """An IoU of 0.81 counts at 7 of the 10 thresholds, .50 to .80."""
    split = _one([[0, 0, 100, 100]], area=[2000.0])
    metrics = coco_metrics(split, _found([[0, 0, 100, 81]], [0.3]))
    assert metrics["AP"] == pytest.approx(0.7)
    assert metrics["AP50"] == metrics["AP75"] == pytest.approx(1)
    assert metrics["AP_medium"] == pytest.approx(0.7)  # by the annotated area, not the box
    assert metrics["AR_100"] == pytest.approx(0.7)
    assert metrics["AP/x"] == pytest.approx(0.7)
    for absent in ("AP_small", "AP_large", "AP/never"):
        assert math.isnan(metrics[absent])


def test_crowds_forgive_and_difficult_objects_count() -> None:
    split = _one([[0, 0, 50, 50], [100, 100, 200, 200]], crowd=[0, 1])
    inside: list[list[float]] = [[110.0, 110, 130, 130], [140, 140, 160, 160], [0, 0, 50, 50]]
    assert coco_metrics(split, _found(inside, [0.9, 0.8, 0.7]))["AP"] == pytest.approx(1)
    split = _one([[0, 0, 50, 50], [100, 100, 200, 200]], difficult=[0, 1])
    assert coco_metrics(split, _found([[0, 0, 50, 50]], [0.7]))["AR_100"] == pytest.approx(0.5)


@pytest.mark.parametrize("detections", [[], _found([], [])])
def test_nothing_found_is_zero(detections: list[ImageDetections]) -> None:
    split = _one([[0, 0, 50, 50]])
    metrics = coco_metrics(split, detections)
    assert metrics["AP"] == metrics["AP_small"] == metrics["AR_100"] == 0
    assert math.isnan(metrics["AP_large"])


def test_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    coco_metrics(_one([[0, 0, 50, 50]]), _found([[0.0, 0, 50, 50]], [0.5]))
    assert capfd.readouterr() == ("", "")


def test_foreign_detections_are_refused() -> None:
    split = _one([[0, 0, 50, 50]])
    good = _found([[0, 0, 50, 50]], [0.5])
    with pytest.raises(ValueError, match="image 1: given twice"):
        coco_metrics(split, good * 2)
    for field, value, message in (
        ("image_id", 2, "image 2: split 'val' has no such image"),
        ("labels", np.array([2]), r"image 1: a label is not in 0\.\.1"),
        ("labels", np.array([-1]), r"image 1: a label is not in 0\.\.1"),
        ("scores", np.array([np.nan]), "image 1: a box or score is not finite"),
        ("boxes", np.full((1, 4), np.inf), "image 1: a box or score is not finite"),
    ):
        bad = _found([[0, 0, 50, 50]], [0.5])
        setattr(bad[0], field, value)
        with pytest.raises(ValueError, match=message):
            coco_metrics(split, bad)
