"""What the charts are drawn from, against numpy and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import INTERVAL, STEPS, write_run

from scalewise.data.split import ImageRecord, Objects, Split
from scalewise.report.dependence import correlation, detrended, level_shares, mean_cosine
from scalewise.report.drawings import chosen
from scalewise.report.figure import compact, name_lines
from scalewise.report.trace import (
    LevelTrace,
    block_means,
    blocks,
    interval_variance,
    read_gradients,
    read_levels,
    smoothed,
)
from scalewise.training.config import TrainConfig


def some_trace(losses: np.ndarray, intervals: np.ndarray) -> LevelTrace:
    steps, levels = losses.shape
    names = [f"P{3 + i}" for i in range(levels)]
    ones = np.ones_like(losses)
    return LevelTrace(names, np.arange(steps), intervals, losses, 2 * ones, ones, None, {})


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
    shares = level_shares(trace, grams)
    np.testing.assert_allclose(shares["loss"], [0.6, 0.4])
    np.testing.assert_allclose(shares["loss × weight"], [1 / 3, 2 / 3])
    np.testing.assert_allclose(shares["positives"], [0.5, 0.5])
    np.testing.assert_allclose(shares["gradient norm"], [0.75, 0.25])
    assert "gradient norm" not in level_shares(trace, None)


def test_cosines_by_hand_without_a_gradient_undefined() -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = mean_cosine(np.stack([vectors @ vectors.T] * 2))
    np.testing.assert_allclose(found[0, 1], np.sqrt(0.5))
    assert np.isnan(found[2]).all()


def test_records_are_read_as_written(tmp_path: Path, tiny: Callable[..., TrainConfig]) -> None:
    write_run(tmp_path / "run", tiny(tmp_path, scheme="rlo"), [0.1, 0.2])
    trace = read_levels(tmp_path / "run")
    assert trace is not None
    assert trace.losses.shape == (STEPS, 5)
    assert trace.starts.tolist() == list(range(0, STEPS, INTERVAL))
    assert trace.drawn is not None
    assert trace.drawn[::INTERVAL][:3] == [None, "avw-decline", "equal"]
    assert list(trace.probabilities) == ["equal", "avw-decline"]
    gradients = read_gradients(tmp_path / "run", trace.levels)
    assert gradients is not None
    np.testing.assert_allclose(gradients[1], gradients[1].transpose(0, 2, 1))


def test_pictures_are_picked_by_object_size_alone() -> None:
    def image(number: int, side: float) -> ImageRecord:
        objects = Objects()
        if side:
            objects.add((0.0, 0.0, side, side), 0)
        return objects.record(number, Path(f"{number}.png"), 640, 640)

    sides = [50, 10, 0, 300, 100, 20, 200]
    split = Split("coco", "val", "", ("a",), (1,), [image(i, s) for i, s in enumerate(sides)])
    ends = [r.image_id for r in chosen(split, 2)]
    assert ends == [1, 3]
    assert [r.image_id for r in chosen(split, 99)] == [1, 5, 0, 4, 6, 3]


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
