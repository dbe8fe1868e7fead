"""A damaged file of a run or study gives an error that names it, or unchanged results."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from scalewise.cli import main
from scalewise.data import Split, open_split
from scalewise.detectors import Batch
from scalewise.errors import UserError
from scalewise.lab.evaluation.match_files import load_matches
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.replay.readers import read_losses
from scalewise.lab.report.origin import environment_rows
from scalewise.lab.report.trace_series import read_gradients, read_groups
from scalewise.lab.study.cell import run_cell
from scalewise.lab.study.local import outcome
from scalewise.lab.study.plan import GridOptions, make_plan
from scalewise.lab.study.plan_file import load_plan, save_plan
from scalewise.lab.study.planned_cells import Cell, cell_config, cell_folder, cell_log
from scalewise.lab.study.records import load_study, read_record, run_seconds
from scalewise.lab.study.run_matches import run_matches
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.reading import read_checkpoint
from scalewise.lab.training.resuming import check_own_metrics, check_unfinished, position
from scalewise.lab.training.run_metrics import load_metrics
from scalewise.lab.training.run_options import load_config

Tiny = Callable[..., TrainConfig]
CELL = Cell("atss", "equal", 0)
RUN = "runs/atss/equal/seed-0"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    **{
        f"cut {i}": lambda content, i=i: content[: len(content) * i // 20]  # type: ignore[misc]
        for i in range(20)
    },
    **{
        f"bit {i}": lambda content, i=i: _flipped(content, i)  # type: ignore[misc]
        for i in range(20)
    },
}
TEXTS = (".json", ".yaml", ".log")


def _flipped(content: bytes, seed: int) -> bytes:
    changed = bytearray(content)
    changed[random.Random(seed).randrange(len(changed))] ^= 1 << seed % 8
    return bytes(changed)


@pytest.fixture(scope="module")
def study(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two finished runs, with all files that a comparison writes."""
    folder = tmp_path_factory.mktemp("damaged") / "study"
    options = tiny(folder, epochs=1, gradient_every=2, log_every=1)
    plan = make_plan(GridOptions(schemes="equal,avw", seeds=1), options)
    save_plan(folder, plan)
    for cell in plan.cells:
        run = train(cell_config(folder, plan, cell))
        cell_log(folder, cell).parent.mkdir(parents=True)
        cell_log(folder, cell).write_text("trained\nand done\n")
        record = read_record(folder, cell)
        assert record is not None
        run_matches(record, {})
        assert (run / "matches.npz").is_file()
    return folder


def _reads(study: Path) -> dict[str, Callable[[], Any]]:
    """For each kind of file, by its pattern, a function that reads it and returns its content."""
    run, splits = study / RUN, dict[tuple[object, ...], Split]()
    return {
        "study.yaml": lambda: str(load_plan(study)),
        f"{RUN}/config.yaml": lambda: str(load_config(run)),
        f"{RUN}/environment.json": lambda: runs.run_classes(run),
        f"{RUN}/metrics.json": lambda: load_metrics(run)["last"],
        f"{RUN}/trace.parquet": lambda: _groups(run)[1],
        f"{RUN}/gradients.parquet": lambda: _gradients(run),
        f"{RUN}/detections.parquet": lambda: [
            image.boxes.tolist() for image in read_detections(run / "detections.parquet")
        ],
        f"{RUN}/matches.npz": lambda: _matches(study, splits),
        f"{RUN}/checkpoints/last.ckpt": lambda: _state(run / "checkpoints" / "last.ckpt"),
        f"{RUN}/checkpoints/best.ckpt": lambda: _state(run / "checkpoints" / "best.ckpt"),
        f"{RUN}/logs/attempt-1/events*": lambda: _events(run),
        "logs/atss/equal/seed-0.log": lambda: outcome(study, CELL, 1),
    }


def _groups(run: Path) -> tuple[list[str], object]:
    trace = read_groups(run)
    assert trace is not None
    return list(trace.groups), trace.losses.tolist()


def _gradients(run: Path) -> object:
    found = read_gradients(run, _groups(run)[0])
    assert found is not None
    return found[1].tolist()


def _matches(study: Path, splits: dict[tuple[object, ...], Split]) -> object:
    record = read_record(study, CELL)
    assert record is not None
    found = run_matches(record, splits)
    return [np.asarray(value).tolist() for value in vars(found).values()]


def _state(path: Path) -> object:
    found = read_checkpoint(path)
    position(found, path, 5, 1)
    return [t.tolist() for k, t in found["state_dict"].items() if "head" in k]


def _events(run: Path) -> object:
    losses = read_losses(next((run / "logs" / "attempt-1").glob("*tfevents*")))
    if losses.notes and "damaged or was cut short" in losses.notes[0]:
        raise UserError(losses.notes[0])  # a note, which the caller would print
    return losses.values.tolist()


KINDS = list(_reads(Path()))
REMADE = (".log", ".npz")  # any last line will do; matches are made again from detections
UNREAD = {"metrics.csv", "hparams.yaml", "groups.png"}  # scalewise never reads them


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_in_one_line(study: Path, tmp_path: Path, kind: str) -> None:
    """41 cuts and flipped bits; in JSON and YAML some give another valid value, which is read."""
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    read, path = _reads(copy)[kind], next(copy.glob(kind))
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    content, right, lines = before[path], read(), list[str]()
    for change in DAMAGES.values():
        path.write_bytes(change(content))
        try:
            found = read()
        except UserError as error:
            lines.append(str(error))
        else:
            shorter = kind.endswith("events*") and found == right[: len(found)]  # the first records
            assert kind.endswith(TEXTS) or shorter or found == right
    assert all(path.name in line and "\n" not in line for line in lines)
    assert len(lines) >= (0 if kind.endswith(REMADE) else 10 if kind.endswith(TEXTS) else 18)
    path.write_bytes(content)
    assert read() == right
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before, "no file changed"


def test_every_file_is_of_a_kind_above(study: Path) -> None:
    known = {path for kind in KINDS for path in study.glob(kind.replace("equal", "*"))}
    others = {path for path in study.rglob("*") if path.is_file()} - known
    assert {path.name for path in others} == UNREAD


def test_options_cut_at_a_lines_end_are_not_taken_for_defaults(study: Path, tmp_path: Path) -> None:
    for name, read in (("study.yaml", load_plan), (f"{RUN}/config.yaml", load_config)):
        lines = (study / name).read_text().splitlines(keepends=True)
        path = tmp_path / Path(name).name
        for count in range(len(lines)):
            path.write_text("".join(lines[:count]))
            with pytest.raises(UserError, match=rf"{path}.*(was cut short|holds no options)"):
                read(tmp_path)
        path.write_text("".join(lines)[:-1])
        with pytest.raises(UserError, match="was cut short"):
            read(tmp_path)


@pytest.mark.parametrize("change", ["emptied", "cut 7", "bit 3"])
def test_commands_say_so_in_one_line(
    study: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    file = copy / "study.yaml"
    file.write_bytes(DAMAGES[change](file.read_bytes()).replace(b"skip", b"\xf6"))
    for words in (["report", str(copy)], ["compare", "--out", str(copy), "--dry_run"]):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"scalewise {words[0]}: {file} ")
        assert said.count("\n") == 1


def test_metrics_that_do_not_agree_with_themselves_are_no_record(
    study: Path, tmp_path: Path
) -> None:
    """Metrics with a changed or missing AP are not used in a comparison."""
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    path = copy / RUN / "metrics.json"
    metrics = json.loads(path.read_text())
    for spoil in ({"AP": metrics["last"]["AP"] + 0.1}, {"AP": "0.1"}, {"step": [1]}):
        path.write_text(json.dumps(metrics | {"last": metrics["last"] | spoil}))
        assert read_record(copy, CELL) is None
    last = {name: value for name, value in metrics["last"].items() if name != "AP"}
    path.write_text(json.dumps(metrics | {"last": last, "history": [last]}))
    assert [str(CELL) in line for line in load_study(copy).missing] == [True]
    history = [{"epoch": 1, "AP": 0.5}, {"epoch": 2, "step": 4, "step_seconds": 2.0}]
    assert run_seconds({"history": history}, 3) == 24


def test_damaged_matches_are_made_anew_from_the_detections(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    path = copy / RUN / "matches.npz"
    whole = load_matches(path)
    path.write_bytes(path.read_bytes()[:100])
    splits: dict[tuple[object, ...], Split] = {}
    found = _matches(copy, splits)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"{path} holds no stored matches: ")
    assert said.endswith("; it is made again from detections.parquet\n")
    assert found == [np.asarray(value).tolist() for value in vars(load_matches(path)).values()]
    assert found == [np.asarray(value).tolist() for value in vars(whole).values()]
    assert _matches(copy, splits) == found
    assert not capsys.readouterr().err, "the new matches were stored"
    path.write_bytes(b"")
    (path.parent / "detections.parquet").unlink()
    with pytest.raises(UserError, match=r"matches\.npz holds no stored matches"):
        _matches(copy, splits)


def test_figures_of_another_run_are_no_record(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A valid `metrics.json`, or a whole folder, of another run is not used."""
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    run, other = copy / RUN, copy / "runs" / "atss" / "avw" / "seed-0"
    own = (run / "metrics.json").read_text()
    for what in ("metrics.json", "the folder"):
        if what == "metrics.json":
            shutil.copy(other / "metrics.json", run / "metrics.json")
        else:
            shutil.rmtree(run)
            shutil.copytree(other, run)
        assert read_record(copy, CELL) is None
        found = load_study(copy)
        assert [record.scheme for record in found.records] == ["avw"]
        assert found.missing == [f"{CELL}: {run / 'metrics.json'} belongs to another run"]
        before = (run / "metrics.json").read_bytes()
        with pytest.raises(UserError, match=rf"{run / 'metrics.json'} belongs to another run: put"):
            run_cell(cell_config(copy, load_plan(copy), CELL))
        assert (run / "metrics.json").read_bytes() == before
    (run / "metrics.json").write_text(own)
    assert read_record(copy, CELL) is not None
    check_unfinished(other.parent / "absent")
    shutil.copy(run / "metrics.json", other / "metrics.json")
    check_unfinished(other)  # a finished run's figures do not finish another one
    with pytest.raises(UserError, match="belongs to another run: put the right file back"):
        check_own_metrics(other, load_config(other))
    (other / "metrics.json").write_text("{")
    check_unfinished(other)
    assert "it is written again from the checkpoint" in capsys.readouterr().err


def test_a_damaged_cell_is_set_aside_not_deleted(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    run, config = cell_folder(copy, CELL), cell_config(copy, load_plan(copy), CELL)
    begun: list[TrainConfig] = []

    def begin(config: TrainConfig, command: str) -> None:
        assert not run.exists()
        begun.append(config)
        shutil.copytree(study / RUN, run)

    monkeypatch.setattr("scalewise.lab.training.fit.train", begin)
    figures = (run / "metrics.json").read_text().replace("finished", "interrupted")
    for number, content in enumerate([b"no checkpoint", None], start=1):
        (run / "metrics.json").write_text(figures)
        checkpoint = run / "checkpoints" / "last.ckpt"
        checkpoint.unlink()
        if content is not None:
            checkpoint.write_bytes(content)
        before = {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()}
        run_cell(config)
        aside = run.with_name(f"seed-0.broken-{number}")
        assert f"the folder is kept as {aside}, and the run starts again" in capsys.readouterr().out
        kept = {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file()}
        assert kept == before
        assert begun == [config] * number
    run_cell(config)  # the run is finished
    assert len(begun) == 2
    assert len(load_study(copy).records) == 2, "folders that were set aside are no records"


def test_images_found_damaged_while_training_stand_in_the_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged images (5 of training, 1 of validation) found before an interruption stay listed."""
    source = Path(open_split(tiny(tmp_path).data, "train").source).parent.parent
    data = tmp_path / "data"
    shutil.copytree(source, data)
    config = tiny(tmp_path, data=str(data), name="run", skip_bad=True, epochs=3)
    splits = {name: open_split(str(data), name) for name in ("train", "val")}
    paths = [record.path for record in splits["train"].records[:5]]
    sound = {path: path.read_bytes() for path in [*paths, splits["val"].records[0].path]}
    for path, content in sound.items():
        path.write_bytes(
            content[: len(content) // 2] + bytes(200) + content[len(content) // 2 + 200 :]
        )
    step, seen = DetectionModule.training_step, iter(range(1, 100))

    def stopping(self: DetectionModule, batch: Batch, index: int) -> Tensor:
        if next(seen) == 7:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionModule, "training_step", stopping)
        with pytest.warns(UserWarning, match="a grey picture"), pytest.raises(KeyboardInterrupt):
            train(config)
    for path, content in sound.items():
        path.write_bytes(content)
    run = resume(tmp_path / "run")
    damaged = load_metrics(run)["damaged"]
    assert damaged["train"] == {"count": 5, "first": sorted(map(str, paths))[:3]}
    assert damaged["val"]["count"] == 1
    told = environment_rows(runs.load_json(run / "environment.json"), damaged)
    names = ", ".join(Path(name).name for name in sorted(map(str, paths))[:3])
    assert told["left out of the data"] == (
        f"train: 5 damaged images, found while training ({names}, ...), "
        f"val: 1 damaged image, found while training ({splits['val'].records[0].path.name})"
    )
