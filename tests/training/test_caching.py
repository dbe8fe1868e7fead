"""Training from images that the device keeps: as exact as from files, and told before it starts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from scalewise.errors import UserError
from scalewise.lab.detectors import Batch
from scalewise.lab.inference.trained import evaluate, load_run
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
    """Stopped among collages and past a checkpoint; it is scored as it was validated, too."""
    common = {"epochs": 2, "checkpoint_every": 2, "cache": "device", "mosaic": True}
    whole = train(tiny(tmp_path, name="whole", **common))
    said = capsys.readouterr().out
    assert "--cache device: 20 training images of at most 64x64 pixels take 0.25 MB on cpu" in said
    assert "--workers" not in said
    step, left = DetectionModule.training_step, iter(range(3, -1, -1))

    def interrupted(self: DetectionModule, batch: Batch, index: int) -> torch.Tensor:
        if next(left) == 0:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(tmp_path, name="run", **common))
    monkeypatch.setattr(DetectionModule, "training_step", step)
    run = resume(tmp_path / "run")
    expected, found = (
        torch.load(r / "checkpoints/last.ckpt", weights_only=True) for r in (whole, run)
    )
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), key
    assert pq.read_table(whole / "trace.parquet").equals(pq.read_table(run / "trace.parquet"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["status"] == "finished"
    assert evaluate(load_run(run, device="cpu"), None, None)[1]["AP"] == metrics["best"]["AP"]


@pytest.mark.parametrize(("workers", "told"), [(1, True), (0, False), ("auto", False)])
def test_workers_that_load_nothing_are_told(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: Any, told: bool
) -> None:
    config = tiny(tmp_path, cache="device", workers=workers)
    check_room(config, *open_splits(config), make_trainer(config, logger=False))
    said = capsys.readouterr().out
    assert ("--workers 1 loads the validation images only" in said) == told


def test_too_little_memory_is_told_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "memory_left", lambda: 10**5)
    with pytest.raises(UserError, match=r"would take .* of memory, .* --cache ram") as refused:
        train(tiny(tmp_path / "runs", cache="device"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_memory_that_is_left(tmp_path: Path) -> None:
    """As the kernel, and either version of cgroups, would say."""
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
    """Files and memory hold the same ones, a device does not; a trained run is free to go on."""
    found = {"run": {"config": {"cache": before}}}
    path = Path("runs/first/checkpoints/last.ckpt")
    config = TrainConfig(data="demo", cache=after)
    with contextlib.ExitStack() as stack:
        if resuming and not alike:
            said = f"--cache {after}, but the checkpoint was made with {before}"
            stack.enter_context(pytest.raises(UserError, match=said))
        check_origin(found, path, config, [], resuming)
