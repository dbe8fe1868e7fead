"""How a study shares the machine, and its estimate of time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scalewise.cli import main
from scalewise.lab.data import dataset, pixel_cache
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.study import estimate, machine_share
from scalewise.lab.study.machine_share import share_of_machine
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.config import TrainConfig


def test_jobs_share_cores_loaders_and_the_memory_of_one_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine_share, "usable_cores", lambda: 16)
    monkeypatch.setattr(machine_share, "_gpu_count", lambda: 1)
    shares = [share_of_machine(slot, 4) for slot in range(4)]
    assert {s.environment["OMP_NUM_THREADS"] for s in shares} == {"4"}
    assert {s.environment["CUDA_VISIBLE_DEVICES"] for s in shares} == {"0"}
    assert sum(s.gpu_memory for s in shares) == 1
    assert [s.workers for s in shares] == [2] * 4
    monkeypatch.setattr(machine_share, "_gpu_count", lambda: 3)
    assert [share_of_machine(slot, 4).gpu_memory for slot in range(4)] == [0.5] * 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    seen = [share_of_machine(slot, 4).environment["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert seen == ["2", "5", "2", "5"]
    assert share_of_machine(0, 1) == machine_share.MachineShare({}, None, 1.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,-1")  # CUDA ignores -1 and what follows
    seen = [share_of_machine(s, 2, devices=2).environment["CUDA_VISIBLE_DEVICES"] for s in (0, 1)]
    assert seen == ["0,1", "0,1"]


@pytest.mark.parametrize(
    ("gpus", "cores", "options", "environment", "jobs"),
    [
        (4, 64, {}, {}, 4),
        (4, 64, {"devices": 2}, {}, 2),
        (5, 64, {"devices": 2}, {}, 2),
        (1, 64, {"devices": 2}, {}, 1),
        (4, 64, {}, {"CUDA_VISIBLE_DEVICES": "1,3"}, 2),
        (4, 64, {"accelerator": "cpu"}, {}, 16),
        (0, 64, {}, {"CUDA_VISIBLE_DEVICES": ""}, 16),
        (0, 64, {"accelerator": "gpu"}, {}, 1),
        (0, 64, {}, {"OMP_NUM_THREADS": "16"}, 4),
        (0, 3, {}, {}, 1),
    ],
)
def test_jobs_that_fit_the_machine(
    gpus: int,
    cores: int,
    options: dict[str, Any],
    environment: dict[str, str],
    jobs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine_share, "_gpu_count", lambda: gpus)
    monkeypatch.setattr(machine_share, "usable_cores", lambda: cores)
    assert machine_share.jobs_that_fit(TrainConfig(data="x", **options)) == jobs


def test_jobs_auto_starts_a_cell_on_each_gpu_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = tmp_path / "cell"  # in place of `python -m scalewise.lab.study.cell FILE MEMORY`
    cell.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $4" > "$3.seen"\nexit 7\n')
    cell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(cell))
    monkeypatch.setattr(machine_share, "_gpu_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,5,6")
    words = ["--data", f"demo:images=10,size=64,folder={tmp_path / 'data'}", "--schemes", "equal"]
    study = tmp_path / "study"
    assert main(["compare", *words, "--seeds", "5", "--jobs", "auto", "--out", str(study)]) == 1
    printed = capsys.readouterr()
    assert "5 runs, 5 to do, 3 at a time" in printed.out
    events = [line.split()[0] for line in printed.out.splitlines() if "seed" in line.split()]
    assert events[:4] == ["start", "start", "start", "failed"]
    assert printed.err.count("exit status 7") == 5
    seen = sorted(file.read_text().split() for file in study.rglob("*.seen"))
    assert {gpu for gpu, _ in seen} == {"1", "5", "6"}
    assert {memory for _, memory in seen} == {"1.0"}


@pytest.mark.parametrize("cache", ["none", "ram", "device"])
def test_the_estimate_decodes_kept_images_once(
    cache: str, tmp_path: Path, tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is estimated with a clock that counts decoded images as seconds."""
    config = tiny(tmp_path, cache=cache, epochs=6, val_every=2)
    decode, decoded = pixel_cache.decode_image, list[Path]()

    def slow(record: ImageRecord, size: int) -> torch.Tensor:
        decoded.append(record.path)
        return decode(record, size)

    for module in (dataset, pixel_cache):
        monkeypatch.setattr(module, "decode_image", slow)
    clock = SimpleNamespace(perf_counter=lambda: float(len(decoded)))
    monkeypatch.setattr(estimate, "time", clock)
    training, validation = (len(split.records) for split in open_splits(config))
    batches = training // 4 * 6 + -(-validation // 4) * 3  # batches of four images
    expected = 4 * batches if cache == "none" else training + validation
    assert estimate.time_steps(config) == pytest.approx(expected)
    assert len(set(decoded)) <= 24  # at most six batches of four images
