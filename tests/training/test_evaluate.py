"""`scalewise evaluate` gives the numbers of training, and reads COCO files as pycocotools does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scalewise.cli import main
from scalewise.data import Split, open_split
from scalewise.errors import UserError
from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.evaluation.coco_tables import coco_results, raw_truth
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.inference import scored
from scalewise.lab.inference.detecting import detect_all
from scalewise.lab.inference.scored import evaluate
from scalewise.lab.inference.trained import TrainedRun, load_run
from scalewise.lab.training.arithmetic import run_arithmetic
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train

Tiny = Callable[..., TrainConfig]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_evaluation_is_validation_to_the_bit(tiny: Tiny, tmp_path: Path, precision: str) -> None:
    """All detections are equal, not only AP, which is near 0 after so short a run."""
    run = train(tiny(tmp_path, epochs=1, precision=precision, lr=0.01))
    before = torch.get_float32_matmul_precision()
    loaded = load_run(run, "last", "cpu")
    path, metrics = evaluate(loaded, None, None)
    last = json.loads((run / "metrics.json").read_text())["last"]
    assert {k: v for k, v in metrics.items() if v == v} == {
        k: last[k] for k, v in metrics.items() if v == v
    }
    split = open_splits(loaded.config)[1]
    stored = read_detections(run / "detections.parquet")
    found = {image.image_id: image for image in detect_all(loaded, split)}
    for image in stored:
        np.testing.assert_array_equal(image.boxes, found[image.image_id].boxes)
        np.testing.assert_array_equal(image.scores, found[image.image_id].scores)
    assert torch.get_float32_matmul_precision() == before
    assert json.loads(path.read_text())["epoch"] == 1


def test_arithmetic_of_a_precision() -> None:
    x = torch.rand(4, 4)
    cpu = torch.device("cpu")
    for precision, dtype in (("32-true", torch.float32), ("16-mixed", torch.bfloat16)):
        with run_arithmetic(precision, cpu):
            assert (x @ x).dtype is dtype
            assert torch.get_float32_matmul_precision() == "high"


def _over_the_edge(folder: Path) -> Path:
    """Write a set of eight images with crowds and boxes beyond the edges."""
    rng = np.random.default_rng(3)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    for i in range(1, 9):
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        pixels = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        for box in ([-9, -7, 40, 30], [40, 20, 40, 44], [5, 5, 20, 20]):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1 + len(annotations) % 2,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(len(annotations) % 7 == 6),
                }
            )
    table = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}],
    }
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(table))
    return folder


def _found(run: TrainedRun, split: Split) -> Iterator[ImageDetections]:
    """Detections near the objects, inside of the images, some with a wrong class."""
    rng = np.random.default_rng(5)
    for record in split.records:
        boxes = np.repeat(record.boxes, 2, axis=0) + rng.normal(0, 2, (2 * len(record.boxes), 4))
        labels = np.repeat(record.labels, 2)
        yield ImageDetections(
            record.image_id,
            boxes.clip(0, [64, 48, 64, 48]).astype(np.float32),
            rng.random(len(boxes)).astype(np.float32),
            np.where(rng.random(len(boxes)) < 0.2, 1 - labels, labels),
            np.zeros(len(boxes), np.int64),
        )


def _pycocotools(file: Path, run: TrainedRun, folder: Path) -> list[float]:
    """AP, AP50, AP75, ... of the same detections, from pycocotools and the unchanged file."""
    split = open_split(folder, "val")
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        results: list[dict[str, Any]] = coco_results(split, list(_found(run, split)))
        scored = COCOeval(truth, truth.loadRes(results), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return [float(value) for value in scored.stats]


def test_boxes_over_the_edge_are_told_of_and_can_be_scored_as_they_stand(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _over_the_edge(tmp_path / "set")
    run = train(tiny(tmp_path, data=str(data), epochs=1, name="run", by="level"))
    loaded = load_run(run, "last", "cpu")
    monkeypatch.setattr(scored, "detect_all", _found)
    expected = _pycocotools(data / "annotations" / "instances_val.json", loaded, data)
    _, raw = evaluate(loaded, None, None, clip=False)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    for name, value in zip(names, expected, strict=False):
        assert raw[name] == pytest.approx(value, abs=1e-9) or (
            value == -1 and raw[name] != raw[name]
        )
    _, cut = evaluate(loaded, None, None)
    assert expected[0] > 0
    assert cut["AP"] != raw["AP"], "clipping changes the AP here"
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device", "cpu", "--checkpoint", "last"]) == 0
    assert "16 boxes reach beyond their image and were cut to it; --no-clip" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    assert main(["evaluate", str(run), "--device", "cpu", "--no-clip"]) == 0
    assert "were used as they are" in capsys.readouterr().out.replace("\n", " ")
    path = max(run.glob("evaluation-val*.json"), key=lambda p: p.stat().st_mtime_ns)
    assert json.loads(path.read_text())["cut_to_the_image"] is False


def test_what_is_no_coco_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    split = open_split(tiny(tmp_path).data, "val")
    split.format = "voc"
    with pytest.raises(UserError, match="leave out --no-clip"):
        raw_truth(split)


def test_a_device_that_is_not_there_is_told(tiny: Tiny, tmp_path: Path) -> None:
    run = train(tiny(tmp_path, epochs=1, val_every=1))
    for device in ("nonsense", "xpu:9"):
        with pytest.raises(UserError, match=f"--device {device}"):
            load_run(run, "last", device)
