"""A run's trace as arrays, and as few points as a chart can show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LevelTrace:
    """What happened at each of n levels over s steps.

    Attributes:
        levels: Their names, finest first.
        steps: int64 [s].
        intervals: int64 [s], count of intervals finished before the step.
        losses: float64 [s, n], unweighted, summed over the terms.
        weights: float64 [s, n].
        positives: float64 [s, n], locations with an object to predict; None where not recorded.
        drawn: the action in force at each step, None for none; None without a policy.
        probabilities: float64 [s, actions] by name; empty without a policy.
    """

    levels: list[str]
    steps: Integers
    intervals: Integers
    losses: Floats
    weights: Floats
    positives: Floats | None
    drawn: list[str | None] | None
    probabilities: dict[str, Floats]

    @property
    def starts(self) -> Integers:
        """Rows at which an interval begins, int64 [intervals]."""
        return np.concatenate([[0], np.flatnonzero(np.diff(self.intervals)) + 1])


def read_levels(run: Path) -> LevelTrace | None:
    """Read a run's `trace.parquet`; None when there is none or it has no row."""
    path = run / "trace.parquet"
    if not path.is_file():
        return None
    table = pq.read_table(path)
    if not table.num_rows:
        return None
    names = table.column_names
    levels = [name.partition("/")[2] for name in names if name.startswith("weight/")]
    positives = [f"positives/{level}" for level in levels]
    return LevelTrace(
        levels=levels,
        steps=table["step"].to_numpy(),
        intervals=table["interval"].to_numpy(),
        losses=np.stack([_level_loss(table, level) for level in levels], axis=1),
        weights=_columns(table, [f"weight/{level}" for level in levels]),
        positives=_columns(table, positives) if set(positives) <= set(names) else None,
        drawn=table["action"].to_pylist() if "action" in names else None,
        probabilities={
            name.partition("/")[2]: table[name].to_numpy().astype(np.float64)
            for name in names
            if name.startswith("probability/")
        },
    )


def read_gradients(run: Path, levels: list[str]) -> tuple[Integers, Floats] | None:
    """Read a run's `gradients.parquet`.

    Returns:
        Steps, int64 [m], and inner products of the levels' gradients, float64 [m, n, n]; None when
        there is no file or no row.
    """
    path = run / "gradients.parquet"
    if not path.is_file():
        return None
    table = pq.read_table(path)
    if not table.num_rows:
        return None
    gram = np.zeros((table.num_rows, len(levels), len(levels)))
    for i, one in enumerate(levels):
        for j, other in enumerate(levels[i:], i):
            gram[:, i, j] = gram[:, j, i] = table[f"gram/{one}/{other}"].to_numpy()
    return table["step"].to_numpy(), gram


def blocks(length: int, most: int) -> Integers:
    """Rows at which at most `most` blocks of nearly equal length begin, int64."""
    return np.unique(np.linspace(0, length, min(length, most), endpoint=False).astype(np.int64))


def block_means(values: Floats, starts: Integers) -> Floats:
    """Mean of each block over the finite values, NaN for a block without one.

    Args:
        values: float64 [s, ...].
        starts: from `blocks`.

    Returns:
        float64 [blocks, ...].
    """
    finite = np.isfinite(values)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts, axis=0)
    count = np.add.reduceat(finite.astype(np.float64), starts, axis=0)
    means: Floats = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means


def smoothed(values: Floats, width: int) -> Floats:
    """Moving average of each column over `width` rows, of what is finite, float64 [s, n]."""
    kernel = np.ones(min(width, len(values)))
    columns = []
    for column in values.T:
        finite = np.isfinite(column)
        total = np.convolve(np.where(finite, column, 0.0), kernel, "same")
        count = np.convolve(finite.astype(np.float64), kernel, "same")
        columns.append(np.where(count > 0.5, total / np.maximum(count, 1), np.nan))
    return np.stack(columns, axis=1)


def interval_variance(trace: LevelTrace) -> Floats:
    """Unbiased variance of each level's loss within each interval, float64 [intervals, n].

    NaN for intervals with fewer than two finite steps.
    """
    starts = trace.starts
    mean = block_means(trace.losses, starts)
    spans = np.diff([*starts, len(trace.steps)])
    finite = np.isfinite(trace.losses)
    off = np.where(finite, trace.losses - np.repeat(mean, spans, axis=0), 0.0)
    count = np.add.reduceat(finite.astype(np.float64), starts, axis=0)
    squares = np.add.reduceat(off**2, starts, axis=0)
    variance: Floats = np.divide(
        squares, count - 1, out=np.full_like(squares, np.nan), where=count > 1
    )
    return variance


def _level_loss(table: pa.Table, level: str) -> Floats:
    columns = [n for n in table.column_names if n.startswith("loss/") and n.endswith(f"/{level}")]
    total = np.zeros(table.num_rows)
    for name in columns:
        total = total + table[name].to_numpy()
    return total


def _columns(table: pa.Table, names: list[str]) -> Floats:
    stacked: Any = np.stack([table[name].to_numpy() for name in names], axis=1)
    return np.asarray(stacked, np.float64)
