"""Ultralytics trainings that compile the model, or that run in several processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# imported first, since it sets the folder for Ultralytics' settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from ultralytics.engine import trainer as engine
from ultralytics.utils import checks as ultralytics_checks
from ultralytics_runs import Train, fast_settings, read_rows

import scalewise as sw
from scalewise.integrations.options import AttachError
from scalewise.integrations.ultralytics import BalancedDetectionTrainer, balanced_trainer


def test_compiled_training(
    train_yolo: Train, tiny_yolo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(model: Any, **options: Any) -> Any:
        return torch.compile(model, backend="eager") if options["mode"] else model

    monkeypatch.setattr(engine, "attempt_compile", compiled)
    runs = [
        train_yolo(
            tiny_yolo,
            trainer=balanced_trainer("level", "random", interval=2),
            name=name,
            compile=mode,
            val=False,
        )
        for name, mode in (("eager", False), ("compiled", True))
    ]
    one, other = (read_rows(run.save_dir / "scalewise.csv") for run in runs)
    for mine, own in zip(one, other, strict=True):
        assert mine == pytest.approx(own, rel=1e-3)
    assert one[0]["weight/stride4"] != 1


def test_several_gpus_get_the_options(
    yolo_data: str, tiny_yolo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that Ultralytics runs on every GPU makes a trainer with the same options."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # other frameworks may have set it
    monkeypatch.setitem(sys.modules, "cloudpickle", pickle)  # so classes are pickled by name
    monkeypatch.setattr(ultralytics_checks, "check_requirements", lambda *names: True)
    made = balanced_trainer(
        "size*class", "avw:strength=0.9:signal=magnitude", interval=7, seed=5, size_edges=(8, 32)
    )
    trainer: Any = made(overrides=fast_settings(yolo_data, tmp_path) | {"model": tiny_yolo})
    trainer.callbacks.clear()
    trainer.ddp, trainer.world_size, trainer.args.device = True, 2, "0,1"
    run, seen = subprocess.run, []

    def on_cpu(command: list[str], check: bool) -> None:
        text = Path(command[-1]).read_text()
        assert text.count("    trainer.train()\n") == 1
        text = text.replace("    cfg =", '    state["args"]["device"] = "cpu"\n    cfg =', 1)
        text = text.replace("trainer.train()", "print(type(trainer), trainer.options)")
        own = run([sys.executable, "-c", text], check=check, stdout=subprocess.PIPE, text=True)
        seen.append(own.stdout)

    monkeypatch.setattr(engine.subprocess, "run", on_cpu)
    trainer.train()
    assert f"{BalancedDetectionTrainer} " in seen[0]
    assert "by='size*class', scheme='avw:strength=0.9:signal=magnitude', interval=7" in seen[0]
    assert "seed=5, size_edges=[8, 32]" in seen[0]
    assert "SCALEWISE_ULTRALYTICS" not in os.environ


def test_several_gpus_need_words(
    yolo_data: str, tiny_yolo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    trainer = balanced_trainer("class", sw.RLO())(
        overrides=fast_settings(yolo_data, tmp_path) | {"model": tiny_yolo}
    )
    trainer.args.device = "0,1"
    with pytest.raises(AttachError, match=r"pass 'rlo' or .* instead of a RLO"):
        trainer.train()
