"""Found and missed objects and wrong detections, compared with the matching of COCO's AP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scalewise.data import Split, open_split
from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.evaluation.judged import as_many_as_objects, judge
from scalewise.lab.evaluation.matching import matched


def _guesses(split: Split, seed: int) -> list[ImageDetections]:
    """Two noisy copies of each object, some with a wrong class, and five random boxes an image."""
    rng = np.random.default_rng(seed)
    found = []
    for record in split.records[1:]:  # nothing is found in the first image
        boxes = np.repeat(record.boxes.astype(np.float64), 2, axis=0)
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + rng.normal(0, 0.1, boxes.shape) * sides
        anywhere = rng.uniform(0, 48, (5, 4))
        anywhere[:, 2:] = anywhere[:, :2] + rng.uniform(4, 16, (5, 2))
        labels = np.where(
            rng.random(len(boxes)) < 0.2, rng.integers(0, 3, len(boxes)), record.labels.repeat(2)
        )
        boxes = np.concatenate([boxes, anywhere])
        labels = np.concatenate([labels, rng.integers(0, 3, 5)])
        scores = rng.random(len(boxes)).astype(np.float32)
        levels = np.zeros(len(boxes), int)
        found.append(
            ImageDetections(record.image_id, boxes.astype(np.float32), scores, labels, levels)
        )
    return found


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("data") / "demo"
    return open_split(f"demo:kind=cells,images=60,size=64,folder={folder}", "val")


@pytest.mark.parametrize("seed", range(5))
def test_found_wrong_and_missed_agree_with_the_evaluation(split: Split, seed: int) -> None:
    """Of each class, the best detections are judged, as many as it has objects."""
    detections = _guesses(split, seed)
    matches = matched(split, detections)
    judged = judge(split, detections, as_many_as_objects(split, detections))
    found = np.bincount(np.concatenate([one.kept.labels[one.right] for one in judged]), minlength=3)
    for label, objects in enumerate(matches.objects.sum(0)):
        best = matches.states[matches.labels == label, 0][:objects]  # at an IoU of 0.5
        assert 0 < found[label] < objects
        assert found[label] == (best == 1).sum()
    total = sum(len(record.boxes) for record in split.records)
    assert sum((~one.right).sum() for one in judged) == total - found.sum()
    assert sum(len(one.missed) for one in judged) == total - found.sum()
    assert len(judged[0].missed) == len(split.records[0].boxes)
    for record, one in zip(split.records, judged, strict=True):
        assert one.right.sum() + len(one.missed) == len(record.boxes)


def test_a_run_that_found_nothing(split: Split) -> None:
    judged = judge(split, [], as_many_as_objects(split, []))
    assert [len(one.missed) for one in judged] == [len(record.boxes) for record in split.records]
    assert not any(len(one.kept.boxes) for one in judged)


@pytest.mark.parametrize("seed", range(3))
def test_crowds_are_neither_missed_nor_wrong(split: Split, seed: int) -> None:
    """With all detections judged, as many are right and wrong as in COCO's matching."""
    rng = np.random.default_rng(seed)
    records = [
        replace(record, crowd=rng.random(len(record.boxes)) < 0.4) for record in split.records
    ]
    crowded = replace(split, records=records)
    detections = _guesses(crowded, seed)
    states = matched(crowded, detections).states[:, 0]
    judged = judge(crowded, detections, np.zeros(3))
    assert (states == -1).sum() > 10
    assert sum(one.right.sum() for one in judged) == (states == 1).sum()
    assert sum((~one.right).sum() for one in judged) == (states == 0).sum()
    assert not any(one.record.crowd[one.missed].any() for one in judged)
