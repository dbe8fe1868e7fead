"""The trace of a run, its picture, and which of many groups are shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure

from scalewise.cli.display import show_run
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.group_style import chosen_groups
from scalewise.lab.training.progress import describe
from scalewise.lab.training.run_options import save_config
from scalewise.lab.training.trace import Trace, TraceInterval
from scalewise.lab.training.trace_picture import draw_groups
from scalewise.lab.training.trace_reading import group_names, loss_columns

NAMES = ["total", "$sum", "_a/b", "background", *(f"class {i}" for i in range(4, 80))]


def fill(trace: Trace, steps: range) -> None:
    for step in steps:
        interval = TraceInterval(
            step // 2, torch.full((2,), 1.0 + step // 2), torch.tensor(step % 2 - 1)
        )
        interval.probabilities = torch.tensor([0.25, 0.75])
        losses = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * step
        trace.add(step, 0, 0.1, losses, torch.tensor([5.0, 0.0]), interval)


def test_trace_round_trip_and_picture(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.parquet", ["class", "box"], ["P3", "P4"], ["equal", "avw"])
    fill(trace, range(3))
    trace.flush()
    fill(trace, range(3, 5))
    trace.save()
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table["step"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["loss/box/P4"].to_pylist() == [0, 4, 8, 12, 16]
    assert table["weight/P3"].to_pylist() == [1, 1, 2, 2, 3]
    assert table["positives/P3"].to_pylist() == [5] * 5
    assert table["action"].to_pylist() == [None, "equal", None, "equal", None]
    assert table["probability/avw"].to_pylist() == [0.75] * 5
    picture = draw_groups(tmp_path)
    assert picture is not None
    assert picture.stat().st_size > 10_000
    assert draw_groups(tmp_path / "none") is None


def test_trace_drops_what_an_interrupted_attempt_did_after_its_checkpoint(tmp_path: Path) -> None:
    first = Trace(tmp_path / "t.parquet", ["class", "box"], ["P3", "P4"], ["equal", "avw"])
    fill(first, range(6))
    first.save()
    second = Trace(
        tmp_path / "t.parquet", ["class", "box"], ["P3", "P4"], ["equal", "avw"], first_step=4
    )
    fill(second, range(4, 8))
    second.save()
    assert pq.read_table(tmp_path / "t.parquet")["step"].to_pylist() == list(range(8))
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_columns_of_losses() -> None:
    for terms in (["class", "box"], [""]):
        names = [f"loss/{t}/{n}" if t else f"loss/{n}" for t in terms for n in NAMES]
        found = loss_columns(["step", *names, "positives/total"], NAMES)
        assert found is not None
        assert found[2] == [f"loss/{t}/_a/b" if t else "loss/_a/b" for t in terms]
    assert loss_columns(["loss/P3", "loss/total"], ["P3"]) is None
    assert loss_columns(["step"], ["P3"]) is None
    assert group_names(["loss/a", "weight/a/b", "weight/weight/c"]) == ["a/b", "weight/c"]


def test_a_picture_of_many_classes_shows_ten_per_positive(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    """The drawn lines equal the columns of the trace."""
    save_config(tmp_path, TrainConfig(data="x", by="class"))
    trace = Trace(tmp_path / "trace.parquet", ["class", "box"], NAMES)
    weights = torch.ones(80)
    weights[:4] = torch.tensor([2.0, 0.4, 3.0, 1.5])
    for step in range(40):
        positives = torch.arange(80.0).flip(0) * (step % 3)
        losses = torch.arange(81.0).repeat(2, 1) + step
        trace.add(step, 0, 0.1, losses, positives, TraceInterval(step // 7, weights))
    trace.save()
    assert draw_groups(tmp_path) == tmp_path / "groups.png"
    losses_, shares, in_force = drawn[0].axes
    title = drawn[0].get_suptitle()
    assert "what happened to each class" in title
    assert "10 of 80 classes: those whose weights went furthest from 1" in title
    labels = [line.get_label() for line in losses_.lines]
    shown = [r"total", r"\$sum", " _a/b", "background", *(f"class {i}" for i in range(4, 10))]
    assert labels == ["(whole loss)", "(background)", *shown], "of equal weights, the most frequent"
    table = pq.read_table(tmp_path / "trace.parquet").to_pydict()
    counts = np.array([table[f"positives/{name}"] for name in NAMES])
    loss = np.array(table["loss/class/_a/b"]) + np.array(table["loss/box/_a/b"])
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = loss / (counts[2] / counts.sum(0))
    np.testing.assert_allclose(np.asarray(losses_.lines[4].get_ydata(), float), expected)
    rest = np.array(table["background/class"]) + np.array(table["background/box"])
    np.testing.assert_allclose(np.asarray(losses_.lines[1].get_ydata(), float), rest)
    assert losses_.get_ylabel().startswith("loss per positive")
    assert shares.get_ylabel() == "share of the positives"
    assert len(shares.collections) == 11
    assert np.asarray(in_force.lines[2].get_ydata(), float).tolist() == [3.0] * 40


def test_groups_that_matter() -> None:
    weights = np.ones((3, 14))
    weights[1, 12] = 0.2  # 1/5 is further from 1 than 4
    weights[2, 13] = 4.0
    positives = np.arange(14.0)[None] * np.ones((3, 1))
    assert chosen_groups(weights, positives) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert chosen_groups(weights, None) == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13]
    weights[0, 0] = 0.0
    assert chosen_groups(weights, positives)[0] == 0
    assert chosen_groups(weights[:, :3], None) == [0, 1, 2]


def test_many_weights_are_printed_below_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["[red]apple[/red]", *NAMES[:79]]
    weights = {name: 2 - i / 100 for i, name in enumerate(names)}
    none = dict.fromkeys(names, 0)
    for many in (80, 20, 9):
        save_config(tmp_path, TrainConfig(data="x", by="class"))
        kept = dict(list(weights.items())[:many])
        outliers = none | {"background": 3}
        metrics = {"best": None, "weights": kept, "skipped_not_finite": none}
        runs.write_json(tmp_path / "metrics.json", metrics | {"skipped_outliers": outliers})
        show_run(tmp_path)
        printed = capsys.readouterr().out
        listed = [line for line in printed.splitlines() if line.startswith("│")]
        assert len(listed) == min(many, 20)
        assert "[red]apple[/red]" in listed[0]
        values = [float(line.split("│")[2]) for line in listed]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(min(kept.values()))
        assert ("60 classes between them are not shown" in printed) == (many == 80)
        assert "outliers: background 3\n" in printed


def test_progress_names_few_groups_and_the_ends_of_many() -> None:
    scoring: Any = SimpleNamespace(history=[])
    few, many = {"small cat": 0.5, "P3": 2.0}, {name: 1 + i for i, name in enumerate(NAMES)}
    for weights, expected in (
        (few, "small cat 0.50 P3 2.00"),
        (many, "from total 1.00 to class 79 80.00"),
    ):
        recorder: Any = SimpleNamespace(latest={"loss": 1.0, "weights": weights, "action": None})
        assert describe(recorder, scoring)["weights"] == expected
