from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalewise.cli import demo, main
from scalewise.cli.demo_found import judge
from scalewise.data import Split, open_split
from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.evaluation.matching import matched
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import load_json


def _guesses(split: Split, seed: int) -> list[ImageDetections]:
    """Two noisy copies of each object, some of another class, and boxes anywhere."""
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
    """COCO's matching, whose best detections of a class are cut to the number of its objects."""
    detections = _guesses(split, seed)
    matches = matched(split, detections)
    judged = judge(split, detections)
    found = np.bincount(np.concatenate([one.labels for one in judged]), minlength=3)
    for label, objects in enumerate(matches.objects.sum(0)):
        best = matches.states[matches.labels == label, 0][:objects]  # at an IoU of 0.5
        assert 0 < found[label] < objects
        assert found[label] == (best == 1).sum()
    total = sum(len(record.boxes) for record in split.records)
    assert sum(len(one.wrong) for one in judged) == total - found.sum()
    assert sum(len(one.missed) for one in judged) == total - found.sum()
    assert len(judged[0].missed) == len(split.records[0].boxes)
    for record, one in zip(split.records, judged, strict=True):
        assert len(one.found) + len(one.missed) == len(record.boxes)


def test_a_run_that_found_nothing(split: Split) -> None:
    judged = judge(split, [])
    assert [len(one.missed) for one in judged] == [len(record.boxes) for record in split.records]
    assert not any(len(one.found) or len(one.wrong) for one in judged)


def test_the_whole_demo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Callable[..., TrainConfig],
) -> None:
    """With a smaller data set and detector: what it says is what its runs recorded."""
    data = f"demo:kind=cells,images=40,size=64,folder={tmp_path}/cells"
    usual = demo.config
    small = tiny(tmp_path, anchor_scale=0.2)
    changes = {
        name: getattr(small, name)
        for name in ("backbone", "width", "size", "batch_size", "accelerator")
    }
    monkeypatch.setattr(demo, "DATA", data)
    monkeypatch.setattr(demo, "config", lambda options: replace(usual(options), **changes))
    assert main(["demo", "--epochs", "1", "--out", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    study = tmp_path / "runs" / "demo"
    recorded = [
        load_json(study / "runs" / "atss" / scheme / "seed-0" / "metrics.json")
        for scheme in ("equal", "avw")
    ]
    assert [metrics["split"] for metrics in recorded] == ["val", "val"]
    for name in ("red cell", "white cell", "platelet"):
        row = next(line for line in printed.splitlines() if re.match(rf"\W*{name} ", line))
        shown = [float(figure) for figure in re.findall(r"[+-]?\d+\.\d", row)]
        equal, balanced = (100 * metrics["last"][f"AP/{name}"] for metrics in recorded)
        assert shown == pytest.approx([equal, balanced, balanced - equal], abs=0.051)
    assert all(len(line) <= 80 for line in printed.splitlines() if str(tmp_path) not in line)
    assert f"report:  {study / 'report.html'}" in printed
    with Image.open(study / "demo.png") as picture:
        assert picture.width > picture.height > 500
    report = (study / "report.html").read_text(encoding="utf-8")
    assert "platelet" in report


def test_the_demo_weighs_classes_at_the_default_scheme() -> None:
    options = demo.DemoRun()
    config = demo.config(options)
    assert (options.scheme, config.by) == (TrainConfig().scheme, TrainConfig().by)
