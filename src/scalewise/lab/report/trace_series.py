"""Reads the trace and the gradients of a run as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scalewise.lab.parquet import DamagedFile, read_table
from scalewise.lab.training.group_style import chosen_groups
from scalewise.lab.training.trace_reading import (
    background_columns,
    group_losses,
    group_names,
    read_trace,
    sum_columns,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupTrace:
    """What happened to each of n groups over s steps.

    Attributes:
        groups: Names of the groups.
        steps: int64 [s], number of each step.
        intervals: int64 [s], number of intervals that were finished before the step.
        losses: float64 [s, n], unweighted losses, summed over the terms.
        weights: float64 [s, n], weights at each step.
        positives: float64 [s, n], locations with an object to predict; None if not recorded.
        drawn: the current action at each step (None before the first); None without a policy.
        probabilities: float64 [s], probability of each action, by its name; empty without a policy.
        background: float64 [s], loss of the background where groups are of positives; None for
            whole levels.
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
        """First row of each interval, int64 [intervals]."""
        return np.concatenate([[0], np.flatnonzero(np.diff(self.intervals)) + 1])

    @property
    def per_positive(self) -> bool:
        """Whether groups are of positives, so that they are compared by loss per positive."""
        return self.background is not None and self.positives is not None

    @cached_property
    def compared(self) -> Floats:
        """The values that compare groups, float64 [s, n]: losses, or losses per positive.

        The loss per positive is a group's loss divided by its share of the step's positives; NaN if
        it has none.
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
        """Indices of the groups that charts show."""
        return chosen_groups(self.weights, self.positives)


def read_groups(run: Path) -> GroupTrace | None:
    """Read a run's `trace.parquet`; None if it is absent or has no row."""
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
        Steps, int64 [m], and inner products of the groups' gradients, float64 [m, n, n]; None if
        the file is absent or has no row.
    """
    path = run / "gradients.parquet"
    if not path.is_file():
        return None
    table = read_table(path)
    if not table.num_rows:
        return None
    pairs = [f"gram/{one}/{other}" for i, one in enumerate(groups) for other in groups[i:]]
    if not {"step", *pairs} <= set(table.column_names):
        raise DamagedFile(f"{path} belongs to another run: it does not have the groups {groups}")
    gram = np.zeros((table.num_rows, len(groups), len(groups)))
    for i, one in enumerate(groups):
        for j, other in enumerate(groups[i:], i):
            gram[:, i, j] = gram[:, j, i] = table[f"gram/{one}/{other}"].to_numpy()
    return table["step"].to_numpy(), gram


def _columns(table: pa.Table, names: list[str]) -> Floats:
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float64)
