"""Ultralytics' trainers with weights by group, compared with plain runs."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

# imported first, since it sets the folder for Ultralytics' settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from ultralytics import YOLO
from ultralytics.utils import loss as ultralytics_loss
from ultralytics_models import CLASSES, SIDE, plan
from ultralytics_runs import Train, fast_settings, read_rows, write_images

import scalewise as sw
from scalewise.integrations.options import AttachError
from scalewise.integrations.ultralytics import (
    TRAINERS,
    BalancedTrainer,
    balanced_trainer,
)

DOCS = Path(__file__).parents[2] / "docs" / "ultralytics.md"


@pytest.mark.parametrize(("model", "by"), [("yolo11n.yaml", "level"), ("yolo26n.yaml", "class")])
def test_twenty_steps_at_weight_one_are_plain_training(
    model: str, by: str, train_yolo: Train
) -> None:
    seen: dict[str, list[list[float]]] = {"plain": [], "equal": []}
    runs = {}
    for name, losses in seen.items():

        def note(trainer: Any, losses: list[list[float]] = losses) -> None:
            items = [float(value) for value in trainer.loss_items.values()]
            losses.append([*items, float(trainer.loss.detach())])

        own = {}
        if name == "equal":
            own = {"trainer": balanced_trainer(by, "equal", interval=3)}
        runs[name] = train_yolo(
            model, {"on_train_batch_end": note}, name=name, epochs=4, val=False, **own
        )
    assert len(seen["plain"]) == 20
    assert seen["equal"] == seen["plain"]
    plain, weighted = (YOLO(run.last).model.state_dict() for run in runs.values())
    assert all(torch.equal(plain[key], weighted[key]) for key in plain)
    rows = [read_rows(run.save_dir / "results.csv") for run in runs.values()]
    for mine, own_row in zip(rows[1], rows[0], strict=True):
        columns = list(own_row)
        assert list(mine)[: len(columns)] == columns  # our columns come after them
        assert {k: mine[k] for k in columns if k != "time"} == {
            k: own_row[k] for k in columns if k != "time"
        }
        # the whole trained loss per image, with both branches of an end-to-end model
        epoch = int(mine["epoch"])
        mean = sum(row[-1] for row in seen["plain"][5 * epoch - 5 : 5 * epoch]) / 5 / 2
        groups = [value for key, value in mine.items() if key.startswith("loss/")]
        assert len(groups) == {"level": 3, "class": CLASSES + 1}[by]
        assert sum(groups) == pytest.approx(mean, rel=1e-4)


def test_weights_change_at_optimizer_steps_only(train_yolo: Train, tiny_yolo: str) -> None:
    """Also while Ultralytics raises the accumulation from 1 to 4 batches."""
    seen: list[tuple[int, list[float]]] = []
    balancer: list[sw.LossBalancer] = []

    def note(trainer: BalancedTrainer) -> None:
        balancer[:] = [trainer.balancer]
        seen.append((trainer.ema.updates, trainer.weighed.weights.tolist()))

    run = train_yolo(
        tiny_yolo,
        {"on_train_batch_start": note},
        trainer=balanced_trainer("level", "random", interval=1),
        epochs=4,
        nbs=8,
        warmup_epochs=2,
    )
    steps = dict(seen)
    assert all(weights == steps[updates] for updates, weights in seen)  # one set per step
    windows = [sum(updates == one for updates, _ in seen) for one in steps]
    assert windows[0] == 1  # during the warm-up
    assert 4 in windows
    assert len({tuple(weights) for weights in steps.values()}) == 5
    # every training batch is recorded, and no validation batch
    assert balancer[0].get_extra_state()[1] == len(seen) == 20
    assert type(run.ema.ema.criterion) is ultralytics_loss.v8DetectionLoss


def test_resume_restores_the_weighting_state(
    train_yolo: Train, tiny_yolo: str, tmp_path: Path
) -> None:
    saved: dict[str, Any] = {}
    restored: dict[str, Any] = {}

    class Interrupted(Exception):
        pass

    def stop(trainer: BalancedTrainer) -> None:
        if trainer.epoch == 1:
            saved.update(copy.deepcopy(trainer.balancer.state_dict()))
            raise Interrupted

    options: dict[str, Any] = {"interval": 4, "seed": 3}
    own = balanced_trainer(scheme="rlo", **options)
    with pytest.raises(Interrupted):
        train_yolo(tiny_yolo, {"on_train_epoch_start": stop}, trainer=own)
    last = tmp_path / "run" / "weights" / "last.pt"
    unfinished = shutil.copy(last, tmp_path / "unfinished.pt")
    with pytest.raises(AttachError, match=r"last\.pt: the saved balancer has 4 groups and scheme"):
        YOLO(last).train(resume=True, trainer=balanced_trainer(scheme="avw", **options))

    def note(trainer: BalancedTrainer) -> None:
        restored.update(copy.deepcopy(trainer.balancer.state_dict()))

    resumed = YOLO(last)
    resumed.add_callback("on_train_start", note)
    resumed.train(resume=True, trainer=own)
    assert restored.keys() == saved.keys()
    assert all(torch.equal(restored[key], saved[key]) for key in saved)
    assert int(saved["_extra_state"][2]) == 1  # one step into an interval
    for file in ("results.csv", "scalewise.csv"):
        assert [row["epoch"] for row in read_rows(tmp_path / "run" / file)] == [1, 2]
    files = [str(unfinished), str(tmp_path / "run" / "weights" / "best.pt")]
    code = WITHOUT_SCALEWISE.replace("FILES", repr(files)).replace("SIDE", str(SIDE))
    subprocess.run([sys.executable, "-c", code], check=True)


WITHOUT_SCALEWISE = """
import sys
sys.modules["scalewise"] = None
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load
for file in FILES:
    model = YOLO(file)
    model.predict(torch.zeros(1, 3, SIDE, SIDE), verbose=False)
    assert all(isinstance(v, torch.Tensor) for v in model.model.scalewise.values())
    torch_safe_load(file, safe_only=True)
"""


def test_a_plain_run_can_go_on_with_weights(
    train_yolo: Train, tiny_yolo: str, tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_yolo(tiny_yolo, {"on_train_epoch_start": stop})
    YOLO(tmp_path / "run" / "weights" / "last.pt").train(
        resume=True, trainer=balanced_trainer("size", "avw", interval=2)
    )
    first, second = read_rows(tmp_path / "run" / "results.csv")
    assert list(first) == list(second)
    assert [row["epoch"] for row in read_rows(tmp_path / "run" / "scalewise.csv")] == [2]


@pytest.mark.parametrize(
    ("family", "task"), [("yolo26", "segment"), ("yolo11", "pose"), ("yolo11", "obb")]
)
def test_other_tasks(family: str, task: str, train_yolo: Train, tmp_path: Path) -> None:
    """Given weights act for one epoch: weighted losses are logged, and the weights are saved."""
    file = tmp_path / f"{family}-{task}.yaml"
    file.write_text(yaml.safe_dump(plan(family, task=task)))
    own = balanced_trainer(scheme="class:a=3:b=0.5")
    images = write_images(tmp_path / "images", task)
    run = train_yolo(str(file), data=images, trainer=own, epochs=1, val=False)
    assert type(run).__name__ == TRAINERS[task].__name__
    (row,), (results,) = (read_rows(run.save_dir / f) for f in ("scalewise.csv", "results.csv"))
    assert row["positives/a"] > 0
    weighed = 3.0 * row["box_loss/a"] + 0.5 * row["box_loss/b"]
    if family != "yolo26":  # there Ultralytics logs only the one-to-one branch
        assert results["train/box_loss"] == pytest.approx(weighed, rel=1e-3)
    assert YOLO(run.last).task == task
    state = YOLO(run.last).model.scalewise
    assert state["weights"].tolist() == [3.0, 0.5, 1.0, 1.0]


def test_what_cannot_be_handled_is_refused(yolo_data: str, tiny_yolo: str, tmp_path: Path) -> None:
    for bad, reason in (
        ({"by": "rlo"}, "choose one of 'class', 'size'"),
        ({"scheme": "rlq"}, "did you mean 'rlo'"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"scheme": sw.RLO}, "got the class RLO"),
        ({"size_edges": [3, 2]}, "size_edges: edges of sizes must ascend"),
    ):
        with pytest.raises(AttachError, match=reason):
            balanced_trainer(**bad)
    with pytest.raises(AttachError, match=r"'classify' has no boxes .* detect, segment, pose, obb"):
        YOLO("yolo11n-cls.yaml").train(trainer=balanced_trainer(), data="none.yaml")
    with pytest.raises(AttachError, match="no group dog; there are: a, b"):
        YOLO(tiny_yolo).train(
            trainer=balanced_trainer(scheme="class:dog=2"), **fast_settings(yolo_data, tmp_path)
        )
    with pytest.raises(AttachError, match="distill_model"):
        YOLO(tiny_yolo).train(trainer=balanced_trainer(), distill_model="none.pt", data="none.yaml")

    def replace(trainer: Any) -> None:
        trainer.model.criterion = trainer.model.init_criterion()

    yolo = YOLO(tiny_yolo)
    yolo.add_callback("on_train_start", replace)
    with pytest.raises(AttachError, match="criterion was replaced"):
        yolo.train(trainer=balanced_trainer(), **fast_settings(yolo_data, tmp_path))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
def test_the_page_runs(
    code: str, yolo_data: str, tiny_yolo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ", ".join(
        f"{key}={value!r}" for key, value in fast_settings(yolo_data, tmp_path).items()
    )
    code = code.replace("yolo11n.yaml", tiny_yolo).replace('data="coco8.yaml"', settings)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCS), "exec"), {})
