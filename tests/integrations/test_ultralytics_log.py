"""What Ultralytics trainings log and plot about the groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

# imported first, since it sets the folder for Ultralytics' settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from ultralytics_models import CLASSES
from ultralytics_runs import Train, read_rows

from scalewise.integrations.ultralytics import balanced_trainer
from scalewise.integrations.ultralytics_log import GroupLog


def test_logs_and_plots(train_yolo: Train, tiny_yolo: str) -> None:
    logged: list[dict[str, float]] = []

    def note(trainer: Any) -> None:
        logged.append(dict(trainer.metrics))

    run = train_yolo(
        tiny_yolo,
        {"on_fit_epoch_end": note},
        trainer=balanced_trainer(scheme="class:a=1.5:b=0.5:c, d=3"),
    )
    weights = {"a": 1.5, "b": 0.5, "c, d": 3.0, "e": 1.0}
    run.plot_metrics()  # `plots=True` calls this, and draws images too
    for file in ("results.png", "scalewise.png"):
        with Image.open(run.save_dir / file) as picture:
            assert picture.size[0] > 500
    assert run.save_dir / "scalewise.png" in run.plots
    assert len(logged) >= 2
    for row, metrics in zip(read_rows(run.save_dir / "results.csv"), logged, strict=False):
        for name, weight in weights.items():
            assert row[f"weight/{name.replace(',', ';')}"] == weight
            assert metrics[f"weight/{name.replace(',', ';')}"] == weight
        assert row["loss/a"] > 0
        assert row["loss/e"] == 0
    for row, own in zip(
        read_rows(run.save_dir / "scalewise.csv"),
        read_rows(run.save_dir / "results.csv"),
        strict=True,
    ):
        assert row["positives/a"] > row["positives/e"] == 0
        for term in ("box_loss", "cls_loss", "dfl_loss"):
            weighed = sum(row[f"{term}/{name}"] * weight for name, weight in weights.items())
            rest = row["loss/background"] if term == "cls_loss" else 0.0
            assert own[f"train/{term}"] == pytest.approx(weighed + rest, rel=1e-3)


def test_the_ten_that_matter_are_shown(tmp_path: Path) -> None:
    names = [f"c{label}" for label in range(80)]
    log = GroupLog(tmp_path / "scalewise.csv", names, 0)
    weights = dict.fromkeys(names, 1.0) | {f"c{label}": 1.5 for label in range(20, 28)}
    weights |= {"c3": 0.0, "c70": 0.4, "c71": 1.4}
    means = {f"weight/{name}": value for name, value in weights.items()}
    log.add(1, means | {f"loss/{name}": 1.0 for name in names})
    assert log.shown() == ["c3", *(f"c{label}" for label in range(20, 28)), "c70"]
    log.plot(tmp_path / "scalewise.png")
    with Image.open(tmp_path / "scalewise.png") as picture:
        assert picture.size == (1500, 600)
    assert GroupLog(log.file, names, 1).shown() == log.shown()


def test_many_groups_stay_out_of_results(train_yolo: Train, tiny_yolo: str) -> None:
    run = train_yolo(tiny_yolo, trainer=balanced_trainer("size*class"), epochs=1, val=False)
    assert run.balancer.names[:2] == ("small a", "small b")
    (row,) = read_rows(run.save_dir / "results.csv")
    assert not [key for key in row if key.startswith(("loss/", "weight/"))]
    (row,) = read_rows(run.save_dir / "scalewise.csv")
    assert len([key for key in row if key.startswith("weight/")]) == 3 * CLASSES
