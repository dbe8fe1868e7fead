"""A run's trace as arrays, and as few points as a chart can show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalewise.lab.parquet import DamagedFile, read_table
from scalewise.lab.training.trace import background_columns, group_names, read_trace
from scalewise.lab.training.trace_picture import chosen_groups, group_losses, sum_columns

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupTrace:
    """What happened to each of n groups over s steps.

    Attributes:
        groups: Their names.
        steps: int64 [s].
        intervals: int64 [s], count of intervals finished before the step.
        losses: float64 [s, n], unweighted, summed over the terms.
        weights: float64 [s, n].
        positives: float64 [s, n], locations with an object to predict; None where not recorded.
        drawn: the action in force at each step, None for none; None without a policy.
        probabilities: float64 [s, actions] by name; empty without a policy.
        background: float64 [s], its loss where positives are grouped; None for whole levels.
    """

    groups: list[str]
    steps: Integers
    intervals: Integers
    losses: Floats
    weights: Floats
    positives: Floats | None
    drawn: list[str | None] | None
    probabilities: dict[str, Floats]
    background: Floats | None = None

    @property
    def starts(self) -> Integers:
        """Rows at which an interval begins, int64 [intervals]."""
        return np.concatenate([[0], np.flatnonzero(np.diff(self.intervals)) + 1])

    @property
    def per_positive(self) -> bool:
        """Whether groups are of positives, so that their losses compare per positive."""
        return self.background is not None and self.positives is not None

    @cached_property
    def compared(self) -> Floats:
        """What compares groups, float64 [s, n]: the loss, or the loss per positive.

        The loss per positive is a group's loss over its share of the step's positives, NaN where it
        has none.
        """
        if not self.per_positive or self.positives is None:
            return self.losses
        total = self.positives.sum(1, keepdims=True)
        found: Floats = np.divide(
            self.losses * total,
            self.positives,
            out=np.full_like(self.losses, np.nan),
            where=self.positives > 0,
        )
        return found

    @cached_property
    def shown(self) -> list[int]:
        """Places of the groups that charts show."""
        return chosen_groups(self.weights, self.positives)


def read_groups(run: Path) -> GroupTrace | None:
    """Read a run's `trace.parquet`; None when there is none or it has no row."""
    path = run / "trace.parquet"
    if not path.is_file():
        return None
    table = read_trace(path)
    if not table.num_rows:
        return None
    names = table.column_names
    groups = group_names(names)
    positives = [f"positives/{group}" for group in groups]
    background = background_columns(names)
    return GroupTrace(
        groups=groups,
        steps=table["step"].to_numpy(),
        intervals=table["interval"].to_numpy(),
        losses=np.stack([group_losses(table, group) for group in groups], axis=1),
        weights=_columns(table, [f"weight/{group}" for group in groups]),
        positives=_columns(table, positives) if set(positives) <= set(names) else None,
        drawn=table["action"].to_pylist() if "action" in names else None,
        probabilities={
            name.removeprefix("probability/"): table[name].to_numpy().astype(np.float64)
            for name in names
            if name.startswith("probability/")
        },
        background=sum_columns(table, background) if background else None,
    )


def read_gradients(run: Path, groups: list[str]) -> tuple[Integers, Floats] | None:
    """Read a run's `gradients.parquet`.

    Returns:
        Steps, int64 [m], and inner products of the groups' gradients, float64 [m, n, n]; None when
        there is no file or no row.
    """
    path = run / "gradients.parquet"
    if not path.is_file():
        return None
    table = read_table(path)
    if not table.num_rows:
        return None
    pairs = [f"gram/{one}/{other}" for i, one in enumerate(groups) for other in groups[i:]]
    if not {"step", *pairs} <= set(table.column_names):
        raise DamagedFile(f"{path} is of another run: it does not have the groups {groups}")
    gram = np.zeros((table.num_rows, len(groups), len(groups)))
    for i, one in enumerate(groups):
        for j, other in enumerate(groups[i:], i):
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


def smoothed_loss(trace: GroupTrace, width: int) -> Floats:
    """Moving average of what compares groups, float64 [s, n]; that per positive over positives."""
    if not trace.per_positive or trace.positives is None:
        return smoothed(trace.losses, width)
    total = trace.positives.sum(1, keepdims=True)
    counts = smoothed(np.where(np.isfinite(trace.losses), trace.positives, np.nan), width)
    mean: Floats = np.divide(
        smoothed(trace.losses * total, width),
        counts,
        out=np.full_like(counts, np.nan),
        where=counts > 1e-9,
    )
    return mean


def block_losses(trace: GroupTrace, starts: Integers) -> Floats:
    """Mean of each block of what compares groups, float64 [blocks, n].

    That per positive is a mean over positives, NaN for a block without any.
    """
    if not trace.per_positive or trace.positives is None:
        return block_means(trace.losses, starts)
    finite = np.isfinite(trace.compared)
    counts = np.where(finite, trace.positives, 0.0)
    total = np.add.reduceat(np.where(finite, trace.compared, 0.0) * counts, starts, axis=0)
    count = np.add.reduceat(counts, starts, axis=0)
    means: Floats = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means


def interval_variance(trace: GroupTrace) -> Floats:
    """Unbiased variance within each interval of what compares groups, float64 [intervals, n].

    NaN for intervals with fewer than two finite steps.
    """
    starts, values = trace.starts, trace.compared
    mean = block_means(values, starts)
    spans = np.diff([*starts, len(trace.steps)])
    finite = np.isfinite(values)
    off = np.where(finite, values - np.repeat(mean, spans, axis=0), 0.0)
    count = np.add.reduceat(finite.astype(np.float64), starts, axis=0)
    squares = np.add.reduceat(off**2, starts, axis=0)
    variance: Floats = np.divide(
        squares, count - 1, out=np.full_like(squares, np.nan), where=count > 1
    )
    return variance


def _columns(table: pa.Table, names: list[str]) -> Floats:
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float64)
