"""A run works after it is moved, and files of another run are noticed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scalewise.data import open_split
from scalewise.detectors import Batch
from scalewise.errors import UserError
from scalewise.lab.inference.scored import evaluate
from scalewise.lab.inference.trained import load_run
from scalewise.lab.parquet import DamagedFile
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.reading import read_checkpoint
from scalewise.lab.training.resuming import check_same_data, position
from scalewise.lab.training.run_metrics import load_metrics, read_metrics
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.scoring import Scoring

Tiny = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def interrupted(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, best in the first, interrupted in the third and then moved."""
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch().context() as patch:
        step, seen = DetectionModule.training_step, iter(range(1, 100))

        def stopping(self: DetectionModule, batch: Batch, index: int) -> Tensor:
            if next(seen) == 12:
                raise KeyboardInterrupt
            return step(self, batch, index)

        patch.setattr(DetectionModule, "training_step", stopping)
        _falling_scores(patch)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(folder, name="run", epochs=3, scheme="avw", gradient_every=2))
    shutil.move(folder / "run", folder / "archive" / "kept")
    return folder / "archive" / "kept"


def _falling_scores(patch: pytest.MonkeyPatch) -> None:
    """Make AP 0.5, 0.4, 0.3, ... in epochs 1, 2, 3, ..."""
    from scalewise.lab.training import scoring

    end = Scoring.on_validation_epoch_end

    def falling(self: Scoring, trainer: Any, module: Any) -> None:
        ap = 0.5 - 0.1 * trainer.current_epoch
        patch.setattr(scoring, "score", lambda *_: {"AP": ap})
        end(self, trainer, module)

    patch.setattr(Scoring, "on_validation_epoch_end", falling)


def test_the_best_checkpoint_of_a_moved_run_stays_the_best(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "renamed"
    shutil.copytree(interrupted, run)
    _falling_scores(monkeypatch)
    resume(run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert [round(epoch["AP"], 2) for epoch in metrics["history"]] == [0.5, 0.4, 0.3]
    assert metrics["best"]["epoch"] == 1
    assert load_run(run, "best", "cpu").epoch == 1
    assert load_run(run, "last", "cpu").epoch == 3
    last = (run / "checkpoints" / "last.ckpt").read_bytes()
    for folder in (run.parent, interrupted.parent.parent):
        assert str(folder).encode() not in last, "a checkpoint must not name a folder"


def test_relative_data_are_found_from_another_folder(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(open_split(tiny(tmp_path).data, "train").source).parent.parent
    (tmp_path / "a").mkdir()
    shutil.copytree(source, tmp_path / "a" / "set")
    monkeypatch.chdir(tmp_path / "a")
    train(tiny(Path("runs"), name="run", epochs=1, data="coco:set"))
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    run = tmp_path / "a" / "runs" / "run"
    best = json.loads((run / "metrics.json").read_text())["best"]
    assert evaluate(load_run(run, "best", "cpu"), None, None)[1]["AP"] == best["AP"]
    shutil.copytree(tmp_path / "a" / "set", tmp_path / "b" / "set")  # another set of that name
    assert load_config(run).data == f"coco:{tmp_path / 'a' / 'set'}"
    shutil.move(tmp_path / "a" / "set", tmp_path / "a" / "gone")
    assert load_config(run).data == "coco:set"


def test_a_cut_config_is_noticed_by_its_checkpoint(interrupted: Path, tmp_path: Path) -> None:
    """Missing options do not silently become defaults."""
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)[1:]  # as in older versions
    (run / "config.yaml").write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(UserError, match="--epochs 12, but the checkpoint was made with 3"):
        resume(run)


def test_files_of_another_run_are_told_from_its_own(
    interrupted: Path, tiny: Tiny, tmp_path: Path
) -> None:
    other = train(tiny(tmp_path, name="other", epochs=1, seed=1, by="level", gradient_every=2))
    cases = {
        "checkpoints/last.ckpt": "--seed 0, but the checkpoint was made with 1",
        "config.yaml": "--seed 1, but the checkpoint was made with 0",
        "trace.parquet": "trace of another run: it has the groups",
        "gradients.parquet": "of another run",
        "metrics.json": "metrics.json belongs to another run: put the right file back",
    }
    for name, message in cases.items():
        run = tmp_path / name.replace("/", "-")
        shutil.copytree(interrupted, run)
        shutil.copy(other / name, run / name)
        with pytest.raises(UserError, match=message):
            resume(run)
        assert (run / name).read_bytes() == (other / name).read_bytes()
    run = tmp_path / "classes"
    shutil.copytree(interrupted, run)
    facts = json.loads((run / "environment.json").read_text())
    facts["classes"].reverse()
    (run / "environment.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="do not belong together: the file names the classes"):
        load_run(run, "last", "cpu")


def test_broken_metrics_are_written_anew(
    interrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    (run / "metrics.json").write_text('{"status": "fin')
    assert read_metrics(run) is None
    _falling_scores(monkeypatch)
    resume(run)
    metrics = load_metrics(run)
    assert [round(epoch["AP"], 2) for epoch in metrics["history"]] == [0.5, 0.4, 0.3]
    (run / "metrics.json").write_text('{"status": "finished", "history": 3}')
    with pytest.raises(UserError, match="is damaged"):
        load_metrics(run)


class Malicious:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (Malicious.target,)

    target = ""


def test_no_pickle_runs(interrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    Malicious.target = str(tmp_path / "pwned")
    path = run / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {"x": Malicious()}}, path)
    for action in (lambda: resume(run), lambda: load_run(run, "last", "cpu")):
        with pytest.raises(UserError, match="could run code when they are loaded"):
            action()
    path.write_bytes(pickle.dumps(Malicious()))  # not an archive
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        resume(run)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Malicious()))
        archive.writestr("archive/version", "3")
    with pytest.raises(UserError, match=r"last\.ckpt"):
        resume(run)
    assert not Path(Malicious.target).exists()


def test_data_that_changed_are_refused(tmp_path: Path) -> None:
    split = open_split("demo:images=10,size=64", "train")
    images, classes = len(split.records), list(split.classes)
    for known_images, known_classes, message in (
        (images, classes, None),
        (99, classes, rf"it had 99 training images, now it has {images}; restore it"),
        (images, ["cat"], r"; its classes were \['cat'\], now \['disc', "),
    ):
        known = {"classes": known_classes, "images": {split.name: known_images}}
        (tmp_path / "environment.json").write_text(json.dumps(known))
        if message is None:
            check_same_data(tmp_path, TrainConfig(data="demo"), split)
            continue
        with pytest.raises(UserError, match=message):
            check_same_data(tmp_path, TrainConfig(data="demo"), split)


def test_resuming_on_other_devices_is_refused(interrupted: Path) -> None:
    path = interrupted / "checkpoints" / "last.ckpt"
    found = read_checkpoint(path)
    assert position(found, path, batches=5, devices=1) == (2, 0)
    with pytest.raises(UserError, match=r"was trained on 1 device\(s\), and would now run on 2"):
        position(found, path, batches=5, devices=2)  # though the position fits
    del found["run"]  # as in older versions
    with pytest.raises(UserError, match="on another number of device"):
        position(found, path, batches=3, devices=2)


def test_a_trace_of_other_groups_is_refused(interrupted: Path) -> None:
    from scalewise.lab.training.trace import Trace

    with pytest.raises(DamagedFile, match="trace of another run"):
        Trace(interrupted / "trace.parquet", ["class", "box"], ["P3"])
