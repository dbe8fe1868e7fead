"""Training from images kept in memory or on the device gives the results of training from files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from scalewise.data import DetectionDataset, make_loader
from scalewise.detectors import Batch
from scalewise.errors import UserError
from scalewise.lab.data.images import load_shrunk
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.export.agreement import check_images
from scalewise.lab.inference.detecting import detect_all
from scalewise.lab.inference.prediction import predict
from scalewise.lab.inference.scored import evaluate
from scalewise.lab.inference.trained import load_run
from scalewise.lab.training import caching
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.caching import check_room, memory_left
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.reading import check_origin
from scalewise.lab.training.trainer import make_trainer

Tiny = Callable[..., TrainConfig]


def test_stopped_and_resumed_equals_undisturbed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with mosaics, stopped past a checkpoint, resumes exactly and is evaluated as before."""
    common: dict[str, Any] = {"epochs": 2, "checkpoint_every": 2, "cache": "device", "mosaic": True}
    whole = train(tiny(tmp_path, name="whole", **common))
    said = capsys.readouterr().out
    assert "--cache device: 20 training images of at most 64x64 pixels take 0.25 MB on cpu" in said
    assert "--workers" not in said
    run = _stopped_and_resumed(tiny(tmp_path, name="run", **common), monkeypatch)
    _same_run(whole, run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert evaluate(load_run(run, device="cpu"), None, None)[1]["AP"] == metrics["best"]["AP"]


def _stopped_and_resumed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stop a run after three steps, then resume it."""
    step, left = DetectionModule.training_step, iter(range(3, -1, -1))

    def interrupted(self: DetectionModule, batch: Batch, index: int) -> torch.Tensor:
        if next(left) == 0:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(DetectionModule, "training_step", step)
    return resume(Path(config.out) / str(config.name))


def _same_run(one: Path, other: Path) -> None:
    """Assert that two runs have the same weights and traces, bit for bit."""
    expected, found = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in (one, other)
    )
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
    assert pq.read_table(one / "trace.parquet").equals(pq.read_table(other / "trace.parquet"))


def test_large_images_are_the_same_everywhere(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images decoded at half size are the same in training, resuming, prediction and export."""
    data = f"demo:images=20,size=331,folder={tmp_path}/demo"
    common: dict[str, Any] = {"data": data, "epochs": 1, "checkpoint_every": 2, "mosaic": True}
    whole = train(tiny(tmp_path, name="whole", lr=0.01, **common))
    kept = tiny(tmp_path, name="kept", lr=0.01, cache="ram", **common)
    run = _stopped_and_resumed(kept, monkeypatch)
    _same_run(whole, run)
    loaded = load_run(run, "last", "cpu")
    training, validation = open_splits(kept)
    stored = {image.image_id: image for image in read_detections(run / "detections.parquet")}
    assert sum(len(image.boxes) for image in stored.values()) > 100
    for image in detect_all(loaded, validation):
        np.testing.assert_array_equal(image.boxes, stored[image.image_id].boxes)
        np.testing.assert_array_equal(image.scores, stored[image.image_id].scores)
    paths = [record.path for record in validation.records]
    predicted = json.loads(
        (predict(loaded, paths, tmp_path / "out", 0.0)[0] / "predictions.json").read_text()
    )
    for record, entry in zip(validation.records, predicted, strict=True):
        boxes = [found["box"] for found in entry["detections"]]
        np.testing.assert_allclose(boxes, stored[record.image_id].boxes, atol=6e-4)
        with Image.open(tmp_path / "out" / entry["picture"]) as picture:
            assert picture.size == (331, 331), "drawn at full size"
    batches, _ = check_images(loaded, 64)
    loader = make_loader(DetectionDataset(validation, 64, augment=False), 4, shuffle=False)
    assert torch.equal(torch.cat([batch.images for batch in batches]), next(iter(loader)).images)
    assert load_shrunk(paths[0], 64).pixels.shape == (166, 166, 3)
    room = replace(kept, cache="device")
    check_room(room, training, validation, make_trainer(room, logger=False))
    assert "4 validation images 0.33 MB of memory" in capsys.readouterr().out, "4 x 3 x 166 x 166"


@pytest.mark.parametrize(("workers", "told"), [(1, True), (0, False), ("auto", False)])
def test_workers_that_load_nothing_are_told(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: Any, told: bool
) -> None:
    config = tiny(tmp_path, cache="device", workers=workers)
    check_room(config, *open_splits(config), make_trainer(config, logger=False))
    said = capsys.readouterr().out
    assert ("for the validation images only" in said) == told


def test_too_little_memory_is_told_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "memory_left", lambda: 10**5)
    with pytest.raises(UserError, match=r"would take .* of memory, .* --cache ram") as refused:
        train(tiny(tmp_path / "runs", cache="device"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_memory_that_is_left(tmp_path: Path) -> None:
    """The limits come from /proc/meminfo and from both versions of cgroups."""
    machine = tmp_path / "meminfo"
    assert memory_left(machine, tmp_path) is None
    machine.write_text("MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable: 5000 kB\n")
    assert memory_left(machine, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 50000\n")
    assert memory_left(machine, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_left(machine, tmp_path) == 350_000
    (tmp_path / "memory.current").write_text("1100000\n")
    assert memory_left(machine, tmp_path) == 0
    older = tmp_path / "older/memory"
    older.mkdir(parents=True)
    (older / "memory.limit_in_bytes").write_text("1000000\n")
    (older / "memory.usage_in_bytes").write_text("400000\n")
    (older / "memory.stat").write_text("cache 1\ntotal_inactive_file 100000\n")
    assert memory_left(machine, older.parent) == 700_000


@pytest.mark.parametrize("resuming", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "alike"),
    [("device", "ram", False), ("none", "device", False), ("none", "ram", True)],
)
def test_a_resumed_run_keeps_its_pixels(
    before: str, after: Any, alike: bool, resuming: bool
) -> None:
    """A resumed run may change between files and memory, but not to or from the device."""
    found = {"run": {"config": {"cache": before}}}
    path = Path("runs/first/checkpoints/last.ckpt")
    config = TrainConfig(data="demo", cache=after)
    with contextlib.ExitStack() as stack:
        if resuming and not alike:
            said = f"--cache {after}, but the checkpoint was made with {before}"
            stack.enter_context(pytest.raises(UserError, match=said))
        check_origin(found, path, config, [], resuming)
