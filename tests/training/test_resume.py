"""A run that was killed and resumed equals an uninterrupted run, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from processes import start
from torchvision.models import mobilenet_v3_small

from scalewise.cli import main
from scalewise.detectors import Batch
from scalewise.errors import UserError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.module import DetectionModule

Tiny = Callable[..., TrainConfig]


def _train_until_killed(config: TrainConfig, kill_at: int) -> None:
    step, calls = DetectionModule.training_step, itertools.count(1)

    def dying(self: DetectionModule, batch: Batch, index: int) -> torch.Tensor:
        if next(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    torch.set_num_threads(1)
    pytest.MonkeyPatch().setattr(DetectionModule, "training_step", dying)
    train(config)


@pytest.mark.parametrize("pretrained", [False, True])
def test_killed_and_resumed_equals_undisturbed(
    tiny: Tiny, tmp_path: Path, pretrained: bool
) -> None:
    """The run is killed in the second epoch, after a checkpoint within that epoch."""
    common: dict[str, object] = {"epochs": 3, "checkpoint_every": 2, "scheme": "rlo"}
    if pretrained:
        torch.save(mobilenet_v3_small().state_dict(), tmp_path / "weights.pth")
        common |= {"weights_backbone": str(tmp_path / "weights.pth")}
        common |= {"accumulate": 2, "ema": 0.9, "optimizer": "sgd", "mosaic": True}
    whole = train(tiny(tmp_path, name="whole", **common))
    config = tiny(tmp_path, name="killed", **common)
    process = start(_train_until_killed, config, 9)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run = tmp_path / "killed"
    assert json.loads((run / "metrics.json").read_text())["status"] == "running"
    before = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert before["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] in (2, 3, 4)
    resume(run)

    expected = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)
    found = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), key
    assert expected["global_step"] == found["global_step"]
    assert pq.read_table(whole / "trace.parquet").equals(pq.read_table(run / "trace.parquet"))
    figures = [json.loads((r / "metrics.json").read_text()) for r in (whole, run)]
    assert [e["AP"] for e in figures[0]["history"]] == [e["AP"] for e in figures[1]["history"]]
    assert figures[1]["status"] == "finished"
    assert (run / "logs/attempt-1").is_dir()
    assert (run / "logs/attempt-2").is_dir()


def test_interrupted_again_within_an_accumulation_window(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt ends inside a window of two batches; no checkpoint has its gradients."""
    common = {"epochs": 1, "checkpoint_every": 1, "accumulate": 2, "scheme": "equal"}
    whole = train(tiny(tmp_path, name="whole", **common))
    step = DetectionModule.training_step
    ends = iter([3, 2])  # batches in attempts one and two

    def interrupted(self: DetectionModule, batch: Batch, index: int) -> torch.Tensor:
        if next(left) == 0:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(DetectionModule, "training_step", interrupted)
    left = iter(range(next(ends), -1, -1))
    with pytest.raises(KeyboardInterrupt):
        train(tiny(tmp_path, name="run", **common))
    left = iter(range(next(ends) - 1, -1, -1))
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run")
    monkeypatch.setattr(DetectionModule, "training_step", step)
    resume(tmp_path / "run")
    one, other = (pq.read_table(r / "trace.parquet") for r in (whole, tmp_path / "run"))
    assert one.equals(other)


def test_ctrl_c_ends_tidily_and_says_how_to_go_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, calls = DetectionModule.training_step, iter(range(100))

    def interrupted(self: DetectionModule, batch: Batch, index: int) -> torch.Tensor:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return step(self, batch, index)

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(dataclasses.asdict(tiny(tmp_path))))
    monkeypatch.setattr(DetectionModule, "training_step", interrupted)
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 130
    run = tmp_path / "atss-rlo"
    assert f"scalewise train --resume {run}" in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["status"] == "interrupted"
    assert pq.read_table(run / "trace.parquet").num_rows == 6
    assert main(["train", "--resume", str(run)]) == 0
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"
    assert pq.read_table(run / "trace.parquet")["step"].to_pylist() == list(range(10))


def test_resume_says_why_it_cannot(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny(tmp_path, epochs=1))
    with pytest.raises(UserError, match="is finished"):
        resume(run)
    assert main(["train", "--resume", str(tmp_path)]) == 1
    assert "no run folder" in capsys.readouterr().err
    (run / "metrics.json").unlink()
    (run / "checkpoints/last.ckpt").unlink()
    with pytest.raises(UserError, match="no last checkpoint"):
        resume(run)


def test_same_seed_same_run_other_seed_other_run(tiny: Tiny, tmp_path: Path) -> None:
    """Initial weights, batches and augmentation depend on the seed, not on the scheme."""
    tables = {}
    for name, seed, scheme in (("a", 0, "equal"), ("b", 0, "rlo"), ("c", 1, "equal")):
        run = train(tiny(tmp_path, name=name, seed=seed, scheme=scheme, epochs=1))
        tables[name] = pq.read_table(run / "trace.parquet").select(
            [c for c in pq.read_table(run / "trace.parquet").column_names if c.startswith("loss/")]
        )
    assert tables["a"].slice(0, 3).equals(tables["b"].slice(0, 3)), "weights are 1 in interval 0"
    assert not tables["a"].slice(0, 1).equals(tables["c"].slice(0, 1))
