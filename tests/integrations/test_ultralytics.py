"""Runs of Ultralytics' trainers with weights by group, against plain ones and their own losses."""

from __future__ import annotations

import copy
import csv
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

# first, since it says where Ultralytics writes its settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from ultralytics import YOLO
from ultralytics.engine import trainer as engine
from ultralytics.utils import checks as ultralytics_checks
from ultralytics.utils import loss as ultralytics_loss
from ultralytics_models import CLASSES, POINTS, SIDE, plan

import scalewise as sw
from scalewise.integrations.options import AttachError
from scalewise.integrations.ultralytics import (
    TRAINERS,
    BalancedDetectionTrainer,
    BalancedTrainer,
    balanced_trainer,
)
from scalewise.integrations.ultralytics_log import GroupLog

DOCS = Path(__file__).parents[2] / "docs" / "ultralytics.md"
Train = Callable[..., Any]


NAMES = ["a", "b", "c, d", "e"][:CLASSES]


def _images(folder: Path, task: str = "detect") -> str:
    """A data set of 10 training images with objects of the first two classes."""
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 10), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name in range(count):
            pixels = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)
            Image.fromarray(pixels.numpy()).save(folder / "images" / split / f"{name}.png")
            boxes = 0.3 + 0.4 * torch.rand(1 + name % 3, 4, generator=draw)
            lines = [f"{name % 2} " + " ".join(map(str, _label(box, task))) for box in boxes]
            (folder / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
    text: dict[str, Any] = {"path": str(folder), "train": "images/train", "val": "images/val"}
    text |= {"names": NAMES, "kpt_shape": [POINTS, 3]}
    (folder / "data.yaml").write_text(yaml.safe_dump(text))
    return str(folder / "data.yaml")


def _label(box: torch.Tensor, task: str) -> list[float]:
    """What follows the class in a line: of segments and rotated boxes the corners."""
    x, y, w, h = box.tolist()
    if task == "pose":
        return [x, y, w, h] + [x, y, 2.0] * POINTS
    if task == "detect":
        return [x, y, w, h]
    w, h = w / 3, h / 3
    return [x - w, y - h, x + w, y - h, x + w, y + h, x - w, y + h]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that trains in no time."""
    file = tmp_path_factory.mktemp("model") / "tiny.yaml"
    file.write_text(yaml.safe_dump(plan("yolo11")))
    return str(file)


@pytest.fixture
def train(data: str, tmp_path: Path) -> Train:
    """Train, with callbacks by their event; returns Ultralytics' trainer."""

    def run(model: str, events: dict[str, Callable[[Any], None]] | None = None, **args: Any) -> Any:
        yolo = YOLO(model)
        for event, call in (events or {}).items():
            yolo.add_callback(event, call)
        yolo.train(**(_fast(data, tmp_path) | args))
        return yolo.trainer

    return run


def _fast(data: str, folder: Path) -> dict[str, Any]:
    return {
        "data": data,
        "project": str(folder),
        "name": "run",
        "epochs": 2,
        "imgsz": SIDE,
        "batch": 2,
        "nbs": 2,
        "workers": 0,
        "amp": False,
        "plots": False,
        "device": "cpu",
        "verbose": False,
    }


def _rows(file: Path) -> list[dict[str, float]]:
    with file.open(newline="") as lines:
        return [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(lines)]


@pytest.mark.parametrize(("model", "by"), [("yolo11n.yaml", "level"), ("yolo26n.yaml", "class")])
def test_twenty_steps_at_weight_one_are_plain_training(model: str, by: str, train: Train) -> None:
    seen: dict[str, list[list[float]]] = {"plain": [], "equal": []}
    runs = {}
    for name, losses in seen.items():

        def note(trainer: Any, losses: list[list[float]] = losses) -> None:
            items = [float(value) for value in trainer.loss_items.values()]
            losses.append([*items, float(trainer.loss.detach())])

        own = {}
        if name == "equal":
            own = {"trainer": balanced_trainer(by, "equal", interval=3)}
        runs[name] = train(
            model, {"on_train_batch_end": note}, name=name, epochs=4, val=False, **own
        )
    assert len(seen["plain"]) == 20
    assert seen["equal"] == seen["plain"]
    plain, weighted = (YOLO(run.last).model.state_dict() for run in runs.values())
    assert all(torch.equal(plain[key], weighted[key]) for key in plain)
    rows = [_rows(run.save_dir / "results.csv") for run in runs.values()]
    for mine, own_row in zip(rows[1], rows[0], strict=True):
        columns = list(own_row)
        assert list(mine)[: len(columns)] == columns  # then ours
        assert {k: mine[k] for k in columns if k != "time"} == {
            k: own_row[k] for k in columns if k != "time"
        }
        # all that was trained on, of both branches of an end-to-end model, per image
        epoch = int(mine["epoch"])
        mean = sum(row[-1] for row in seen["plain"][5 * epoch - 5 : 5 * epoch]) / 5 / 2
        groups = [value for key, value in mine.items() if key.startswith("loss/")]
        assert len(groups) == {"level": 3, "class": CLASSES + 1}[by]
        assert sum(groups) == pytest.approx(mean, rel=1e-4)


def test_weights_change_at_optimizer_steps_only(train: Train, tiny: str) -> None:
    """While Ultralytics raises the accumulation from 1 to 4 batches, and after."""
    seen: list[tuple[int, list[float]]] = []
    balancer: list[sw.LossBalancer] = []

    def note(trainer: BalancedTrainer) -> None:
        balancer[:] = [trainer.balancer]
        seen.append((trainer.ema.updates, trainer.weighed.weights.tolist()))

    run = train(
        tiny,
        {"on_train_batch_start": note},
        trainer=balanced_trainer("level", "random", interval=1),
        epochs=4,
        nbs=8,
        warmup_epochs=2,
    )
    steps = dict(seen)
    assert all(weights == steps[updates] for updates, weights in seen)  # one set a step
    windows = [sum(updates == one for updates, _ in seen) for one in steps]
    assert windows[0] == 1  # during the warm-up
    assert 4 in windows
    assert len({tuple(weights) for weights in steps.values()}) == 5
    # every training batch is recorded, and no batch of the four validations
    assert balancer[0].get_extra_state()[1] == len(seen) == 20
    assert type(run.ema.ema.criterion) is ultralytics_loss.v8DetectionLoss


def test_resume_restores_the_weighting_state(train: Train, tiny: str, tmp_path: Path) -> None:
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
        train(tiny, {"on_train_epoch_start": stop}, trainer=own)
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
        assert [row["epoch"] for row in _rows(tmp_path / "run" / file)] == [1, 2]
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


def test_a_plain_run_can_go_on_with_weights(train: Train, tiny: str, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tiny, {"on_train_epoch_start": stop})
    YOLO(tmp_path / "run" / "weights" / "last.pt").train(
        resume=True, trainer=balanced_trainer("size", "avw", interval=2)
    )
    first, second = _rows(tmp_path / "run" / "results.csv")
    assert list(first) == list(second)
    assert [row["epoch"] for row in _rows(tmp_path / "run" / "scalewise.csv")] == [2]


def test_logs_and_plots(train: Train, tiny: str) -> None:
    logged: list[dict[str, float]] = []

    def note(trainer: Any) -> None:
        logged.append(dict(trainer.metrics))

    run = train(
        tiny,
        {"on_fit_epoch_end": note},
        trainer=balanced_trainer(scheme="class:a=1.5:b=0.5:c, d=3"),
    )
    weights = {"a": 1.5, "b": 0.5, "c, d": 3.0, "e": 1.0}
    run.plot_metrics()  # what `plots=True` does, beside many pictures of images
    for file in ("results.png", "scalewise.png"):
        with Image.open(run.save_dir / file) as picture:
            assert picture.size[0] > 500
    assert run.save_dir / "scalewise.png" in run.plots
    for row, metrics in zip(_rows(run.save_dir / "results.csv"), logged, strict=False):
        for name, weight in weights.items():
            assert row[f"weight/{name.replace(',', ';')}"] == weight
            assert metrics[f"weight/{name.replace(',', ';')}"] == weight
        assert row["loss/a"] > 0
        assert row["loss/e"] == 0
    for row, own in zip(
        _rows(run.save_dir / "scalewise.csv"), _rows(run.save_dir / "results.csv"), strict=True
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


def test_many_groups_stay_out_of_results(train: Train, tiny: str) -> None:
    run = train(tiny, trainer=balanced_trainer("size*class"), epochs=1, val=False)
    assert run.balancer.names[:2] == ("small a", "small b")
    (row,) = _rows(run.save_dir / "results.csv")
    assert not [key for key in row if key.startswith(("loss/", "weight/"))]
    (row,) = _rows(run.save_dir / "scalewise.csv")
    assert len([key for key in row if key.startswith("weight/")]) == 3 * CLASSES


@pytest.mark.parametrize(
    ("family", "task"), [("yolo26", "segment"), ("yolo11", "pose"), ("yolo11", "obb")]
)
def test_other_tasks(family: str, task: str, train: Train, tmp_path: Path) -> None:
    """One epoch under given weights, logged as the trainer's own losses and saved without ours."""
    file = tmp_path / f"{family}-{task}.yaml"
    file.write_text(yaml.safe_dump(plan(family, task=task)))
    own = balanced_trainer(scheme="class:a=3:b=0.5")
    images = _images(tmp_path / "images", task)
    run = train(str(file), data=images, trainer=own, epochs=1, val=False)
    assert type(run).__name__ == TRAINERS[task].__name__
    (row,), (results,) = (_rows(run.save_dir / f) for f in ("scalewise.csv", "results.csv"))
    assert row["positives/a"] > 0
    weighed = 3.0 * row["box_loss/a"] + 0.5 * row["box_loss/b"]
    if family != "yolo26":  # Ultralytics logs the one-to-one branch alone
        assert results["train/box_loss"] == pytest.approx(weighed, rel=1e-3)
    assert YOLO(run.last).task == task
    state = YOLO(run.last).model.scalewise
    assert state["weights"].tolist() == [3.0, 0.5, 1.0, 1.0]


def test_compiled_training(train: Train, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(model: Any, **options: Any) -> Any:
        return torch.compile(model, backend="eager") if options["mode"] else model

    monkeypatch.setattr(engine, "attempt_compile", compiled)
    runs = [
        train(
            tiny,
            trainer=balanced_trainer("level", "random", interval=2),
            name=name,
            compile=mode,
            val=False,
        )
        for name, mode in (("eager", False), ("compiled", True))
    ]
    one, other = (_rows(run.save_dir / "scalewise.csv") for run in runs)
    for mine, own in zip(one, other, strict=True):
        assert mine == pytest.approx(own, rel=1e-3)
    assert one[0]["weight/stride4"] != 1


def test_several_gpus_get_the_options(
    data: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that Ultralytics starts for every GPU makes the same trainer."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # which other frameworks leave behind
    monkeypatch.setitem(sys.modules, "cloudpickle", pickle)  # so classes go by name, as of old
    monkeypatch.setattr(ultralytics_checks, "check_requirements", lambda *names: True)
    made = balanced_trainer(
        "size*class", "avw:strength=0.9:signal=magnitude", interval=7, seed=5, size_edges=(8, 32)
    )
    trainer: Any = made(overrides=_fast(data, tmp_path) | {"model": tiny})
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
    data: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    trainer = balanced_trainer("class", sw.RLO())(overrides=_fast(data, tmp_path) | {"model": tiny})
    trainer.args.device = "0,1"
    with pytest.raises(AttachError, match=r"pass 'rlo' or .* instead of a RLO"):
        trainer.train()


def test_what_cannot_be_handled_is_refused(data: str, tiny: str, tmp_path: Path) -> None:
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
        YOLO(tiny).train(trainer=balanced_trainer(scheme="class:dog=2"), **_fast(data, tmp_path))
    with pytest.raises(AttachError, match="distill_model"):
        YOLO(tiny).train(trainer=balanced_trainer(), distill_model="none.pt", data="none.yaml")

    def replace(trainer: Any) -> None:
        trainer.model.criterion = trainer.model.init_criterion()

    yolo = YOLO(tiny)
    yolo.add_callback("on_train_start", replace)
    with pytest.raises(AttachError, match="criterion was replaced"):
        yolo.train(trainer=balanced_trainer(), **_fast(data, tmp_path))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
def test_the_page_runs(
    code: str, data: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = ", ".join(f"{key}={value!r}" for key, value in _fast(data, tmp_path).items())
    code = code.replace("yolo11n.yaml", tiny).replace('data="coco8.yaml"', fast)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCS), "exec"), {})
