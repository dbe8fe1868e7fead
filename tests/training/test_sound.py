"""Trainings that cannot continue stop with a reason and keep their valid files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import Tensor

from scalewise.cli import main
from scalewise.detectors import Batch
from scalewise.errors import UsageError, UserError
from scalewise.files import WriteError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.sound import Diverged
from scalewise.weighting import LossBalancer

Tiny = Callable[..., TrainConfig]


def _spoil(monkeypatch: pytest.MonkeyPatch, first: int, last: int, what: str) -> None:
    """Make the loss or a parameter not finite in steps `first` to `last`, counted from 1."""
    train_on, step = DetectionModule.training_step, DetectionModule.optimizer_step
    seen, steps = iter(range(1, 1000)), iter(range(1, 1000))

    def spoiling(self: DetectionModule, batch: Batch, index: int) -> Tensor:
        loss = train_on(self, batch, index)
        if first <= next(seen) <= last and what == "loss":
            self.losses = self.losses * float("nan")
            return loss * 0
        return loss

    def stepping(self: DetectionModule, *args: object, **kwargs: object) -> None:
        step(self, *args, **kwargs)
        if first <= next(steps) + 1 <= last and what == "parameter":  # before the next loss
            with torch.no_grad():
                next(self.detector.pyramid.parameters()).fill_(float("inf"))

    monkeypatch.setattr(DetectionModule, "training_step", spoiling)
    monkeypatch.setattr(DetectionModule, "optimizer_step", stepping)


@pytest.mark.parametrize("what", ["loss", "parameter"])
def test_a_diverged_run_stops_at_once_and_keeps_its_last_sound_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Steps fail from the 7th on (epoch 2); no checkpoint has a parameter that is not finite."""
    _spoil(monkeypatch, 7, 1000, what)
    with pytest.raises(Diverged, match=r"diverged at step 7 \(epoch 2\)") as stop:
        train(tiny(tmp_path, name="run", epochs=4, interval=3, log_every=4, checkpoint_every=0))
    run = tmp_path / "run"
    assert f"{run / 'checkpoints/last.ckpt'} is the last sound checkpoint" in str(stop.value)
    assert "--lr (it was 0.001)" in str(stop.value)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["status"] == "diverged"
    for kind in ("best", "last"):
        found = torch.load(run / "checkpoints" / f"{kind}.ckpt", weights_only=True)
        assert found["epoch"] == 0 or what == "loss"  # a bad loss changes no parameter
        assert all(t.isfinite().all() for k, t in found["state_dict"].items() if "detector" in k)


def test_few_steps_without_a_finite_loss_are_no_divergence(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four bad steps do not stop a run, even with intervals of one step."""
    _spoil(monkeypatch, 2, 5, "loss")
    run = train(tiny(tmp_path, interval=1, log_every=1))
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"


def test_the_command_line_says_so_and_counts_values_before_any_interval_has_ended(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of 1e12 diverges before the first interval ends."""
    config = tiny(tmp_path)
    words = ["--lr", "1e12", "--clip_norm", "0", "--warmup", "0", "--optimizer", "sgd"]
    for name in ("data", "size", "batch_size", "width", "depth", "backbone", "workers"):
        words += [f"--{name}", str(getattr(config, name))]
    words += ["--accelerator", "cpu", "--progress", "plain", "--interval", "100", "--by", "level"]
    assert main(["train", *words, "--out", str(tmp_path), "--name", "run"]) == 1
    printed = capsys.readouterr().err
    assert "training diverged at step 2" in printed
    assert "--clip_norm 10" in printed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "diverged"
    assert metrics["skipped_not_finite"] == dict.fromkeys(("P3", "P4", "P5", "P6", "P7"), 4)


@pytest.mark.parametrize("calls", [1, 5, 128, 129, 300])
def test_values_of_the_unfinished_interval_are_counted(calls: int) -> None:
    balancer = LossBalancer(2, "avw", interval=1000)
    broken = torch.rand(calls, 2, generator=torch.Generator().manual_seed(calls)) < 0.3
    for row in broken:
        balancer(torch.where(row, float("nan"), 1.0).requires_grad_())
    assert balancer.skipped.tolist() == [0, 0]
    assert balancer.skipped_since.tolist() == broken.sum(0).tolist()


def test_a_lost_device_does_not_hide_what_lost_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, seen = DetectionModule.training_step, iter(range(1, 100))

    def losing(self: DetectionModule, batch: Batch, index: int) -> Tensor:
        if next(seen) == 7:
            for name in ("tolist", "cpu"):
                monkeypatch.setattr(Tensor, name, _no_answer)
            raise RuntimeError("the first error")
        return step(self, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", losing)
    with pytest.raises(RuntimeError, match="the first error"):
        train(tiny(tmp_path, name="run", log_every=100))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "interrupted"
    assert len(metrics["history"]) == 1
    assert len(metrics["weights"]) == 5, "weights of the first epoch"
    assert "trace.parquet lacks the last steps: the device is gone" in capsys.readouterr().err


def _no_answer(tensor: Tensor, *args: object) -> object:
    raise RuntimeError("the device is gone")


def test_a_folder_removed_while_training_is_named_and_not_made_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "run"
    step, seen = DetectionModule.training_step, iter(range(1, 100))

    def removing(self: DetectionModule, batch: Batch, index: int) -> Tensor:
        if next(seen) == 4:
            shutil.rmtree(run)
        return step(self, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", removing)
    with pytest.raises(UserError, match=f"{run}"):
        train(tiny(tmp_path / "runs", name="run"))
    assert not run.exists()


def test_a_full_disk_costs_nothing_that_was_saved(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If saving fails after the first epoch, the run can be resumed later and finishes."""
    save, full = torch.save, [False]

    def saving(value: object, file: BinaryIO) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        save(value, file)

    step, seen = DetectionModule.training_step, iter(range(1, 100))

    def filling(self: DetectionModule, batch: Batch, index: int) -> Tensor:
        full[0] = full[0] or next(seen) == 7
        return step(self, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", filling)
    monkeypatch.setattr(torch, "save", saving)
    with pytest.raises(WriteError, match=r"ckpt could not be written: No space left on device"):
        train(tiny(tmp_path, name="run"))
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text())["status"] == "interrupted"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    monkeypatch.undo()
    (run / "checkpoints" / ".last.999999999.part.ckpt").touch()
    resume(run)
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"
    assert not [p for p in run.rglob("*") if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 32, "batch_size": 19}, "--size 32 leaves one place .* --size 33 or more"),
        ({"devices": 2, "strategy": "nonsense"}, "--strategy nonsense"),
        ({"accelerator": "tpu"}, "--accelerator tpu"),
    ],
)
def test_what_cannot_train_is_refused_before_a_folder_is_made(
    tiny: Tiny, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny(tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


def test_the_least_size_and_one_image_train(tiny: Tiny, tmp_path: Path) -> None:
    run = train(tiny(tmp_path, size=33, batch_size=19, epochs=1))
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"
