"""The commands as functions: same options, same numbers, and errors instead of exits."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_records import write_run, write_study

import scalewise as sw
from scalewise.cli.evaluate import EvaluateOptions
from scalewise.cli.inspect import InspectOptions
from scalewise.cli.predict import PredictOptions
from scalewise.data import open_split
from scalewise.errors import UsageError, UserError
from scalewise.lab.results import TrainResult, read_run
from scalewise.lab.study.plan_file import load_plan
from scalewise.lab.study.planned_cells import Cell, cell_config, cell_folder
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import load_json

Tiny = Callable[..., TrainConfig]
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def options(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return tiny(tmp_path_factory.mktemp("api") / "runs", scheme="equal", by="class")


@pytest.fixture(scope="module")
def run(options: TrainConfig) -> TrainResult:
    return sw.train(options, epochs=1, name="first", scheme="avw", seed=np.int64(3))


def texts(figure: Figure) -> set[str]:
    """All texts in a figure."""
    from matplotlib.text import Text

    figure.canvas.draw()
    found = figure.findobj(lambda artist: isinstance(artist, Text))
    return {text.get_text().strip() for text in found if isinstance(text, Text)}


def test_a_training_is_the_run_on_disk(run: TrainResult, options: TrainConfig) -> None:
    config = load_config(run.run)
    assert config == dataclasses.replace(options, epochs=1, name="first", scheme="avw", seed=3)
    written = json.loads((run.run / "metrics.json").read_text())
    assert run.metrics == written["last"]
    assert run.history == written["history"]
    assert run.weights == written["weights"]
    assert read_run(str(run.run)) == run
    command = load_json(run.run / "environment.json")["command"]
    assert command.startswith("scalewise.train(data='demo:")
    assert "seed=3" in command
    assert f"AP {100 * run.metrics['AP']:.1f} % after epoch 1" in repr(run)


def test_a_training_is_plotted(run: TrainResult) -> None:
    figure = run.plot()
    assert isinstance(figure, Figure)
    assert set(run.weights) <= texts(figure)
    left, right = figure.axes
    assert left.lines[0].get_ydata() == pytest.approx([100 * e["AP"] for e in run.history])
    assert len(right.lines) == len(run.weights)
    last = {str(line.get_label()): np.asarray(line.get_ydata())[-1] for line in right.lines}
    assert last == pytest.approx(run.weights, abs=0.2)
    assert figure._repr_png_().startswith(PNG)  # what a notebook shows


def test_an_evaluation_is_the_file_in_the_run(run: TrainResult) -> None:
    found = sw.evaluate(run, checkpoint="last", device="cpu")
    assert found.path.parent == run.run
    written = json.loads(found.path.read_text())["metrics"]
    for name, value in found.metrics.items():
        assert written[name] == value or (written[name] is None and np.isnan(value))
    assert found.metrics["AP"] == pytest.approx(run.metrics["AP"], nan_ok=True)
    assert set(run.weights) <= texts(found.plot())
    assert found.path.stem in repr(found)


def test_a_prediction_draws_every_image(run: TrainResult, tmp_path: Path) -> None:
    paths = [record.path for record in open_split(load_config(run.run).data, "val").records]
    found = sw.predict(
        run, [*paths, tmp_path / "none.png"], out=tmp_path / "seen", threshold=0, checkpoint="last",
        device="cpu",
    )  # fmt: skip
    assert [path.name for path in found.pictures] == [f"{path.stem}.png" for path in paths]
    assert all(path.read_bytes().startswith(PNG) for path in found.pictures)
    assert found.metrics["images"] == len(paths)
    assert found.metrics["unreadable"] == 1
    assert "none.png" in repr(found)
    assert {path.stem for path in paths} <= texts(found.plot())


def test_a_comparison_is_the_study_on_disk(tiny: Tiny, tmp_path: Path) -> None:
    study = tmp_path / "trial"
    write_study(study, tiny(tmp_path, by="level"), seeds=3)
    plan = load_plan(study)
    last = Cell("atss", "rlo", 2)
    write_run(cell_folder(study, last), cell_config(study, plan, last), [0.2, 0.4])
    found = sw.compare(out=study)  # all its runs are finished
    for detector, means in found.metrics.items():
        assert set(means) == set(plan.schemes)
        for scheme, mean in means.items():
            folders = (study / "runs" / detector).glob("*/seed-*")
            values = [
                json.loads((folder / "metrics.json").read_text())["last"]["AP"]
                for folder in folders
                if load_config(folder).scheme == scheme
            ]
            assert mean == pytest.approx(np.mean(values))
    assert len(found.verdicts) == len(plan.detectors) * (len(plan.schemes) - 1)
    assert not found.missing
    figure = found.plot()
    assert f"AP minus {plan.baseline}" in " ".join(texts(figure))
    with pytest.raises(UsageError, match="other options"):
        sw.compare(out=study, size=96)
    assert load_plan(study) == plan


def test_an_inspection_writes_only_where_it_is_told_to(
    options: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = sw.inspect(data=options.data, size=64, split="val")
    assert list(tmp_path.iterdir()) == []
    assert found.metrics["images"] == len(open_split(options.data, "val").records)
    json.dumps(found.metrics)
    assert max(map(len, repr(found).splitlines())) <= 80
    assert "sizes in the original image" in texts(found.plot())
    assert sw.inspect(data=options.data, size=64, out="seen").folder == Path("seen")
    assert sorted(path.name for path in Path("seen").iterdir()) == ["inspect.html", "inspect.png"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sw.train(data="demo", epoch=3), "no option 'epoch'; did you mean 'epochs'?"),
        (lambda: sw.train(data="demo", size="big"), "size"),
        (lambda: sw.train(data="demo", detector="yolo"), "detector"),
        (lambda: sw.train(epochs=3), "--data is missing"),
        (lambda: sw.train(resume="none", epochs=3), "resume continues a run"),
        (lambda: sw.train(resume="none"), "no run folder"),
        (lambda: sw.evaluate("none"), "no run folder"),
        (lambda: sw.evaluate("none", checkpont="last"), "did you mean 'checkpoint'?"),
        (lambda: sw.predict("none", "x.png", threshold=2.0), "--threshold is a score"),
        (lambda: sw.compare(data="demo", scheme="avw"), "did you mean 'schemes'?"),
        (lambda: sw.compare(data="demo", seed=3), "did you mean 'seeds'?"),
        (lambda: sw.compare(data="demo", jobs=0), "--jobs must be at least 1"),
        (lambda: sw.inspect(), "--data is missing"),
        (lambda: sw.inspect(data="demo", anchor_scale=0), "--anchor_scale must be above 0"),
    ],
)
def test_bad_calls_raise_one_line(
    call: Callable[[], Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        call()
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "kind"),
    [(sw.evaluate, EvaluateOptions), (sw.predict, PredictOptions), (sw.inspect, InspectOptions)],
)
def test_every_option_is_named_in_the_docstring(function: Callable[..., Any], kind: type) -> None:
    (listed,) = re.findall(r"options: (.*?)\.\s", function.__doc__ or "", re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == [option.name for option in dataclasses.fields(kind)]


def test_importing_costs_nothing_before_a_call() -> None:
    code = (
        "import sys, scalewise, scalewise.api\n"
        "scalewise.train, scalewise.evaluate, scalewise.predict, scalewise.compare\n"
        "heavy = {'torch', 'lightning', 'matplotlib', 'jsonargparse', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
