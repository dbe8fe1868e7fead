"""All kinds of records give the same losses, and ambiguous records are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from scalewise.lab.replay.columns import LossesError, find_columns
from scalewise.lab.replay.readers import read_losses

VALUES = np.array([[1.0, 0.5], [0.75, 0.25], [0.5, 0.125]], dtype=np.float32)


def write_csv(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def write_log(folder: Path, values: dict[str, dict[int, float]]) -> Path:
    with SummaryWriter(str(folder)) as writer:
        for tag, points in values.items():
            for step, value in points.items():
                writer.add_scalar(tag, value, step)
    return folder


def test_csv_of_levels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", "step,P3,P4", "0,1,0.5", "1,0.75,0.25", "2,0.5,0.125")
    losses = read_losses(path)
    assert losses.groups == ("P3", "P4")
    assert losses.steps.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(losses.values.numpy(), VALUES)
    assert losses.notes == ()


def test_csv_without_steps(tmp_path: Path) -> None:
    losses = read_losses(write_csv(tmp_path / "a.csv", "P3,P4", "1,2", "3,4"))
    assert losses.steps.tolist() == [0, 1]


def test_terms_are_added_up_and_other_columns_left_alone(tmp_path: Path) -> None:
    header = "lr,loss/box/P3,loss/box/P4,loss/cls/P3,loss/cls/P4,weight/P3"
    losses = read_losses(write_csv(tmp_path / "a.csv", header, "9,1,2,10,20,9"))
    assert losses.groups == ("P3", "P4")
    assert losses.values.tolist() == [[11, 22]]


def test_log_of_lightning(tmp_path: Path) -> None:
    """With rows of validation, a total, and 20 steps between two rows."""
    path = write_csv(
        tmp_path / "metrics.csv",
        "epoch,loss/P3,loss/P4,loss/total,step,val/AP",
        ",1,0.5,1.5,20,",
        "1,,,,20,0.5",
        ",0.75,0.25,1,40,",
        ",0.5,0.125,0.625,60,",
    )
    losses = read_losses(path)
    assert losses.groups == ("P3", "P4")
    np.testing.assert_array_equal(losses.values.numpy(), VALUES)
    assert losses.steps.tolist() == [20, 40, 60]
    assert len(losses.notes) == 2
    assert losses.notes[0].startswith("1 rows without any group's loss")
    assert "20 steps apart" in losses.notes[1]
    assert "100 rows, 2000 steps" in losses.notes[1]
    assert "vary less" in losses.notes[1]


def test_parquet_keeps_what_is_not_finite_and_counts_it(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    table = pa.table({"loss/P3": [1.0, nan, 2.0], "loss/P4": [1.0, nan, inf]})
    pq.write_table(table, tmp_path / "a.parquet")
    losses = read_losses(tmp_path / "a.parquet")
    assert len(losses.values) == 3
    assert losses.notes == (
        "values that are not finite, which the statistics leave out: P3 1, P4 2",
    )


def test_csv_spells_what_is_not_finite(tmp_path: Path) -> None:
    losses = read_losses(write_csv(tmp_path / "a.csv", "P3,P4", "nan,1", "inf,1", "1,1"))
    assert len(losses.values) == 3
    assert (~losses.values.isfinite()).sum(0).tolist() == [2, 0]


def test_tensorboard(tmp_path: Path) -> None:
    folder = write_log(
        tmp_path / "logs",
        {
            "loss/P10": {1: 0.5, 2: 0.25, 3: 0.125},
            "loss/P9": {1: 1.0, 2: 0.75, 3: 0.5},
            "loss/total": {1: 1.5},
            "lr": {1: 0.1},
        },
    )
    event_file = next(folder.iterdir())
    for path in (folder, tmp_path, event_file):
        losses = read_losses(path)
        assert losses.groups == ("P9", "P10")
        assert losses.steps.tolist() == [1, 2, 3]
        np.testing.assert_array_equal(losses.values.numpy(), VALUES)
        assert losses.notes == ()


def test_tensorboard_aligns_and_counts(tmp_path: Path) -> None:
    write_log(tmp_path, {"loss/P3": {1: 1, 2: 2, 3: 3}, "loss/P4": {2: 5, 3: 6, 4: 7}})
    losses = read_losses(tmp_path)
    assert losses.steps.tolist() == [2, 3]
    assert losses.values.tolist() == [[2, 5], [3, 6]]
    assert losses.notes[0].startswith("2 of 4 steps lack the loss of some group")


def test_tensorboard_names_of_another_kind(tmp_path: Path) -> None:
    write_log(tmp_path, {f"train/{n}_loss_{t}": {1: 1.5} for n in ("p3", "p4") for t in "ab"})
    with pytest.raises(LossesError, match=r"train/p3_loss_a.*--tags|--tags.*train/p3_loss_a"):
        read_losses(tmp_path)
    losses = read_losses(tmp_path, "train/{group}_loss_{term}")
    assert losses.groups == ("p3", "p4")
    assert losses.values.tolist() == [[3, 3]]


def test_two_logs_are_not_mixed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_log(tmp_path / name, {"loss/P3": {1: 1.0}})
    with pytest.raises(LossesError, match=r"2 TensorBoard logs; name one: .*a, .*b"):
        read_losses(tmp_path)


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("step,P3,P4,lr", "0,1,1,1", "'lr' cannot be levels"),
        ("step", "0", "no others"),
        ("P3,P4", "1,hello", "'P4' does not hold numbers"),
        ("step,P3", "x,1", "'step' does not hold whole numbers"),
        ("loss/P3,loss/box/P3", "1,1", "the same loss twice"),
        ("loss/a/P3,loss/b/P3,loss/a/P4", "1,1,1", "there is no b of P4"),
        ("step,loss/P3", "1,", "no row has a loss of a group"),
    ],
)
def test_doubtful_tables_are_refused(tmp_path: Path, header: str, line: str, message: str) -> None:
    path = write_csv(tmp_path / "a.csv", header, line)
    with pytest.raises(LossesError, match=message) as caught:
        read_losses(path)
    assert "a.csv" in str(caught.value)


def test_unreadable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "broken.parquet").write_text("no parquet")
    for name, message in (
        ("missing.csv", "does not exist"),
        ("text.txt", "is not a run folder"),
        ("empty.parquet", "is empty"),
        ("broken.parquet", "is damaged"),
        (".", "neither a trace.parquet nor TensorBoard"),
    ):
        with pytest.raises(LossesError, match=message):
            read_losses(tmp_path / name)


def test_patterns() -> None:
    with pytest.raises(LossesError, match="must contain"):
        find_columns(["a"], "loss", "x")
    with pytest.raises(LossesError, match="placeholder twice"):
        find_columns(["a"], "{group}{group}", "x")
    with pytest.raises(LossesError, match="nothing is named like"):
        find_columns(["a"], "b{group}", "x")
    found = find_columns(["step", "l.P3", "l.P4", "l3"], "l.{group}", "x")
    assert found.groups == ("P3", "P4")  # the dot is a dot


ODD = ("total", "sum", "a/b", "background", "box", "small cat", "b")


def odd_table(terms: tuple[str, ...]) -> pa.Table:
    """A trace of scalewise: groups of odd names, a different loss for each term and group."""
    columns: dict[str, object] = {"step": [0, 1], "interval": [0, 0]}
    value = 1.0
    for term in terms:
        for group in ODD:
            columns[f"loss/{term}/{group}" if term else f"loss/{group}"] = [value, value + 0.5]
            value += 1
    columns |= {f"background/{term}" if term else "background": [9.0, 9.0] for term in terms}
    columns |= {f"positives/{group}": [1.0, float(i)] for i, group in enumerate(ODD)}
    columns |= {f"weight/{group}": [1.0, 2.0] for group in ODD}
    columns |= {"action": ["total", "sum"], "probability/total": [0.5, 0.5]}
    return pa.table(columns)


@pytest.mark.parametrize("terms", [("class", "box"), ("",)])
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_trace_of_ours_is_read_whatever_its_groups_are_called(
    tmp_path: Path, terms: tuple[str, ...], ending: str
) -> None:
    table = odd_table(terms)
    path = tmp_path / f"trace.{ending}"
    pq.write_table(table, path) if ending == "parquet" else pacsv.write_csv(table, path)
    losses = read_losses(path)
    assert losses.groups == ODD
    first = np.arange(1.0, 8.0) if terms == ("",) else 2 * np.arange(1.0, 8.0) + 7
    np.testing.assert_array_equal(losses.values.numpy()[0], first.astype(np.float32))
    assert losses.positives is not None
    assert losses.positives[1].tolist() == list(range(7))


def test_a_log_of_ours_is_read_whatever_its_groups_are_called(tmp_path: Path) -> None:
    """As `train` writes it: losses summed over the terms, and the whole loss."""
    tags = {f"loss/{name}": {5: float(i)} for i, name in enumerate(ODD)}
    tags |= {f"weight/{name}": {5: 1.0} for name in ODD}
    write_log(tmp_path, tags | {"loss": {5: 99.0}, "background": {5: 9.0}})
    losses = read_losses(tmp_path)
    assert dict(zip(losses.groups, losses.values[0].tolist(), strict=True)) == {
        name: float(i) for i, name in enumerate(ODD)
    }


def test_weights_alone_do_not_make_a_trace_of_ours(tmp_path: Path) -> None:
    losses = read_losses(
        write_csv(tmp_path / "a.csv", "loss/P3,loss/total,weight/P3", "1,5,1", "2,5,1")
    )
    assert losses.groups == ("P3",)
    with pytest.raises(LossesError, match="cannot be levels"):
        read_losses(write_csv(tmp_path / "b.csv", "step,weight/P3", "1,1"))


def test_steps_that_fall_are_said(tmp_path: Path) -> None:
    losses = read_losses(write_csv(tmp_path / "a.csv", "step,P3", "0,1", "1,1", "0,1", "1,1"))
    assert losses.notes == (
        "the step does not rise at 1 rows; rows are taken in the order of the file",
    )
    assert torch.equal(losses.values, torch.ones(4, 1))
