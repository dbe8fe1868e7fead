"""The numbers behind the charts, compared with NumPy and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import CLASSES, INTERVAL, SIX, STEPS, write_class_run, write_run

from scalewise.lab.report.correlations import (
    correlation,
    detrended,
    group_shares,
    mean_cosine,
    pairwise_correlation,
)
from scalewise.lab.report.figure import compact, name_lines
from scalewise.lab.report.group_charts import all_groups_table
from scalewise.lab.report.origin import environment_rows
from scalewise.lab.report.policy import policy_figure
from scalewise.lab.report.reading_subjects import load_subjects
from scalewise.lab.report.smoothing import (
    block_losses,
    block_means,
    blocks,
    interval_variance,
    smoothed,
    smoothed_loss,
)
from scalewise.lab.report.trace_series import GroupTrace, read_gradients, read_groups
from scalewise.lab.training.config import TrainConfig


def some_trace(losses: np.ndarray, intervals: np.ndarray) -> GroupTrace:
    steps, levels = losses.shape
    names = [f"P{3 + i}" for i in range(levels)]
    ones = np.ones_like(losses)
    return GroupTrace(names, np.arange(steps), intervals, losses, 2 * ones, ones, None, {})


@given(st.integers(1, 2000), st.integers(1, 400))
def test_blocks_cover_all_rows_with_at_most_so_many(length: int, most: int) -> None:
    starts = blocks(length, most)
    assert starts[0] == 0
    assert len(starts) == min(length, most)
    sizes = np.diff([*starts, length])
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_block_means_leave_out_what_is_not_finite() -> None:
    values = np.array([[1.0], [3.0], [np.nan], [5.0], [np.inf], [np.nan]])
    means = block_means(values, np.array([0, 2, 4]))
    np.testing.assert_allclose(means, [[2.0], [5.0], [np.nan]])


def test_smoothing_is_an_average_of_neighbours() -> None:
    values = np.arange(10.0)[:, None]
    np.testing.assert_allclose(smoothed(values, 3)[1:-1], values[1:-1])
    np.testing.assert_allclose(smoothed(values, 1), values)
    values[4] = np.nan
    assert smoothed(values, 3)[4, 0] == pytest.approx(4.0)


def test_interval_variance_is_numpys_and_needs_two_steps() -> None:
    draw = np.random.default_rng(0)
    losses = draw.random((11, 2))
    losses[3, 1] = np.nan
    found = interval_variance(some_trace(losses, np.arange(11) // 5))
    np.testing.assert_allclose(found[1], losses[5:10].var(0, ddof=1))
    np.testing.assert_allclose(found[0, 0], losses[:5, 0].var(ddof=1))
    np.testing.assert_allclose(found[0, 1], losses[[0, 1, 2, 4], 1].var(ddof=1))
    assert np.isnan(found[2]).all()


def test_correlation_is_numpys_and_undefined_without_variation() -> None:
    values = np.random.default_rng(1).random((50, 3))
    np.testing.assert_allclose(correlation(values), np.corrcoef(values.T))
    values[7, 0] = np.inf
    np.testing.assert_allclose(correlation(values), np.corrcoef(np.delete(values, 7, 0).T))
    values[:, 2] = 0.1
    assert np.isnan(correlation(values)[2]).all()


def test_taking_the_trend_away_leaves_what_is_independent() -> None:
    draw = np.random.default_rng(2)
    trend = np.linspace(5, 0, 5000)[:, None]
    values = trend + draw.normal(0, 0.1, (5000, 2))
    assert correlation(values)[0, 1] > 0.99
    assert abs(correlation(detrended(values))[0, 1]) < 0.1


def test_shares_by_hand() -> None:
    losses = np.array([[3.0, 1.0], [np.nan, 1.0]])
    trace = some_trace(losses, np.zeros(2, np.int64))
    trace.weights[:] = [1.0, 3.0]
    grams = np.array([[[9.0, 0.0], [0.0, 1.0]]])
    shares = group_shares(trace, grams)
    np.testing.assert_allclose(shares["loss"], [0.6, 0.4])
    np.testing.assert_allclose(shares["loss × weight"], [1 / 3, 2 / 3])
    np.testing.assert_allclose(shares["positives"], [0.5, 0.5])
    np.testing.assert_allclose(shares["gradient norm"], [0.75, 0.25])
    assert "gradient norm" not in group_shares(trace, None)


def test_cosines_by_hand_without_a_gradient_undefined() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = mean_cosine(np.stack([vectors @ vectors.T] * 2))
    np.testing.assert_allclose(found[0, 1], np.sqrt(0.5))
    assert np.isnan(found[2]).all()


def test_records_are_read_as_written(tmp_path: Path, tiny: Callable[..., TrainConfig]) -> None:
    write_run(tmp_path / "run", tiny(tmp_path, scheme="rlo"), [0.1, 0.2])
    trace = read_groups(tmp_path / "run")
    assert trace is not None
    assert trace.losses.shape == (STEPS, 5)
    assert trace.starts.tolist() == list(range(0, STEPS, INTERVAL))
    assert trace.drawn is not None
    assert trace.drawn[::INTERVAL][:3] == [None, "avw-decline", "equal"]
    assert list(trace.probabilities) == ["equal", "avw-decline"]
    gradients = read_gradients(tmp_path / "run", trace.groups)
    assert gradients is not None
    np.testing.assert_allclose(gradients[1], gradients[1].transpose(0, 2, 1))


@pytest.fixture
def of_classes(tmp_path: Path, tiny: Callable[..., TrainConfig]) -> Path:
    config = tiny(tmp_path, scheme="rlo", by="class", name="classes")
    write_class_run(tmp_path / "classes", config)
    return tmp_path / "classes"


def recorded(run: Path) -> dict[str, np.ndarray]:
    """The columns of a run's trace by name."""
    table = pq.read_table(run / "trace.parquet").to_pydict()
    return {name: np.array(values) for name, values in table.items()}


def test_classes_of_any_name_are_read_by_hand(of_classes: Path) -> None:
    """Losses and weights equal the columns of the file, read by name."""
    trace = read_groups(of_classes)
    assert trace is not None
    assert trace.groups == list(CLASSES)
    table = recorded(of_classes)
    for name in ("total", "sum", "background", "a/b", "box", "class 79"):
        i = CLASSES.index(name)
        by_hand = table[f"loss/class/{name}"] + table[f"loss/box/{name}"]
        np.testing.assert_allclose(trace.losses[:, i], by_hand)
        assert trace.weights[:, i].tolist() == table[f"weight/{name}"].tolist()
    assert trace.background is not None
    rest = table["background/class"] + table["background/box"]
    np.testing.assert_allclose(trace.background, rest)


def test_loss_per_positive_is_the_loss_over_the_share(of_classes: Path) -> None:
    trace = read_groups(of_classes)
    assert trace is not None
    table = recorded(of_classes)
    counts = np.stack([table[f"positives/{name}"] for name in CLASSES], axis=1)
    for name in ("total", "class 79"):
        i = CLASSES.index(name)
        loss = table[f"loss/class/{name}"] + table[f"loss/box/{name}"]
        seen = counts[:, i] > 0
        expected = loss[seen] / (counts[seen, i] / counts[seen].sum(1))
        np.testing.assert_allclose(trace.compared[seen, i], expected, rtol=1e-6)
        assert np.isnan(trace.compared[~seen, i]).all()
        mean = np.average(expected, weights=counts[seen, i])
        np.testing.assert_allclose(block_losses(trace, np.array([0]))[0, i], mean, rtol=1e-6)
        around = slice(28, 33)
        np.testing.assert_allclose(
            smoothed_loss(trace, 5)[30, i],
            (loss * counts.sum(1))[around].sum() / counts[around, i].sum()
            if counts[around, i].sum()
            else np.nan,
            rtol=1e-6,
        )
    assert (counts[:, CLASSES.index("class 79")] == 0).any()
    np.testing.assert_allclose(
        interval_variance(trace)[0, 0], trace.compared[:5, 0].var(ddof=1), rtol=1e-6
    )


def test_ten_classes_are_shown_those_that_were_weighed_most(of_classes: Path) -> None:
    trace = read_groups(of_classes)
    assert trace is not None
    table = recorded(of_classes)
    far = {name: np.abs(np.log(table[f"weight/{name}"])).max() for name in CLASSES}
    most = sorted(far, key=far.__getitem__)[-10:]
    assert {CLASSES[i] for i in trace.shown} == set(most)
    assert trace.shown == sorted(trace.shown)


def test_the_table_of_all_classes_by_hand(of_classes: Path) -> None:
    (comparison,) = load_subjects([of_classes], None)
    trace = read_groups(of_classes)
    assert trace is not None
    found = all_groups_table(comparison.runs[0], trace)
    assert found.header == [
        "class",
        "share of the positives",
        "mean loss per positive",
        "mean weight",
        "final weight",
        "AP at the end",
    ]
    table = recorded(of_classes)
    counts = {name: table[f"positives/{name}"].sum() for name in CLASSES}
    assert [row[0] for row in found.rows] == sorted(CLASSES, key=lambda name: -counts[name])
    rows = {row[0]: row for row in found.rows}
    for name in ("total", "a/b", "class 30"):
        share = 100 * counts[name] / sum(counts.values())
        weight = table[f"weight/{name}"]
        assert rows[name][1] == f"{share:.2f} %"
        assert float(rows[name][3]) == pytest.approx(weight.mean(), rel=5e-3)
        assert float(rows[name][4]) == pytest.approx(weight[-1], rel=5e-3)
        assert float(rows[name][5]) == CLASSES.index(name)


def test_the_policy_of_six_actions_over_growing_intervals(of_classes: Path) -> None:
    (comparison,) = load_subjects([of_classes], None)
    trace = read_groups(of_classes)
    assert trace is not None
    table = recorded(of_classes)
    begins = [int(np.argmax(table["interval"] == number)) for number in range(7)]
    assert np.diff(begins).tolist() == [5, 5, 5, 8, 12, 15]
    steps = len(table["step"])
    figure = policy_figure(comparison.runs[0], trace, "x", 400)
    *lines, band = figure.traces
    assert [line["name"] for line in lines] == list(SIX)
    assert band["x"] == [*begins, steps]
    drawn = table["action"][begins].tolist()
    assert drawn[:3] == [None, "share-0.25", "share"]
    assert band["z"] == [[None if name is None else SIX.index(name) for name in drawn]]
    for line in lines:
        assert line["x"] == [*begins, steps]
        chances = table[f"probability/{line['name']}"]
        np.testing.assert_allclose(line["y"], chances[[*begins, -1]], rtol=1e-6)
    for row in figure.values.rows:
        assert int(row[3]) == drawn.count(row[0])
        assert int(row[4]) == (table["action"] == row[0]).sum()
    # a point for several intervals is the mean over all their steps
    few = policy_figure(comparison.runs[0], trace, "x", 3).traces[0]
    assert few["x"] == [begins[0], begins[2], begins[4], steps]
    means = [
        table["probability/equal"][a:b].mean()
        for a, b in zip(few["x"][:-1], few["x"][1:], strict=True)
    ]
    np.testing.assert_allclose(few["y"][:-1], means, rtol=1e-6)


def test_correlation_of_two_is_over_the_rows_that_both_have() -> None:
    values = np.random.default_rng(5).random((40, 3))
    values[:12, 0] = np.nan
    values[:31, 2] = np.nan
    found = pairwise_correlation(values)
    np.testing.assert_allclose(found[0, 1], np.corrcoef(values[12:, 0], values[12:, 1])[0, 1])
    assert np.isnan(found[0, 2]), "nine rows are too few"
    np.testing.assert_allclose(found, found.T)


def test_numbers_become_strict_json() -> None:
    found = compact({"a": np.array([1.0, np.nan, 1 / 3]), "b": [float("inf"), 5, "x"], "c": 12345})
    assert found == {"a": [1, None, 0.33333], "b": [None, 5, "x"], "c": 12345}


@pytest.mark.parametrize(
    "name", ["equal", "avw:signal=magnitude:invert=true:min_share=0.01:temperature=2:strength=1"]
)
def test_a_name_in_lines_is_the_same_name(name: str) -> None:
    lines = name_lines(name, width=30)
    assert "".join(lines) == name
    assert all(line.endswith(":") for line in lines[:-1])
    assert all(len(line) <= 30 for line in lines)
    assert len(lines) == (1 if name == "equal" else 3)


def test_what_was_left_out_of_the_data_is_told() -> None:
    counts = {"train": {"bad box": 2, "missing image": 1}, "val": {}}
    found = environment_rows({"skipped_counts": counts})
    assert found["left out of the data"] == "train: 2 bad boxes, 1 missing image"
    assert environment_rows({"skipped_counts": {"train": {}, "val": {}}}) == {
        "left out of the data": "nothing"
    }
