"""Reads the losses of groups from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from scalewise.lab.replay.columns import Columns, LossesError


@dataclass(frozen=True)
class GroupLosses:
    r"""The unweighted loss of each group over time.

    Attributes:
        source: The file that was read.
        steps: int64 [rows], the recorded step of each row; a replay counts rows, not these steps.
        groups: Names of the groups.
        values: float32 [rows, groups], unweighted losses; not finite where no usable value was
            recorded.
        notes: What was left out, and what to keep in mind.
        positives: float32 [rows, groups], from the columns positives/<group>; None if any of these
            is absent.
        epochs: int [rows], from a column "epoch" of whole numbers; None without it.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.replay.readers import read_losses
        >>> text = "step,loss/P3,loss/P4\n0,2.0,1.0\n1,1.0,0.5\n"
        >>> written = Path("losses.csv").write_text(text)
        >>> read_losses(Path("losses.csv")).groups
        ('P3', 'P4')
    """

    source: Path
    steps: np.ndarray
    groups: tuple[str, ...]
    values: Tensor
    notes: tuple[str, ...] = ()
    positives: Tensor | None = None
    epochs: np.ndarray | None = None


def from_table(table: pa.Table, columns: Columns, path: Path, notes: Sequence[str]) -> GroupLosses:
    """Read the losses that columns of a table hold.

    Raises:
        LossesError: no row has a loss, or a column does not hold numbers.
    """
    parts = np.stack([[_floats(table, n, path) for n in names] for names in columns.names])
    empty = [table[name].is_null().to_numpy() for names in columns.names for name in names]
    recorded = ~np.all(empty, axis=0)  # [rows]; logs also have rows of other things
    if not recorded.any():
        raise LossesError(f"{path}: no row has a loss of a group")
    notes = list(notes)
    if not recorded.all():
        notes.append(f"{int((~recorded).sum())} rows without any group's loss were left out")
    # Sum in the same layout and order as training does, since float32 sums depend on the order.
    values = torch.from_numpy(np.ascontiguousarray(parts[..., recorded].transpose(2, 1, 0)))
    losses = torch.stack([row.sum(0) for row in values])  # [rows, groups]
    steps = _steps(table, path)[recorded]
    notes += _spacing(steps)
    broken = (~losses.isfinite()).sum(0)
    if broken.any():
        counts = zip(columns.groups, broken.tolist(), strict=True)
        notes.append(
            "values that are not finite, which the statistics leave out: "
            + ", ".join(f"{group} {count}" for group, count in counts if count)
        )
    counted = [f"positives/{group}" for group in columns.groups]
    positives = None
    if set(counted) <= set(table.column_names):
        found = np.stack([_floats(table, name, path) for name in counted], axis=1)
        positives = torch.from_numpy(found[recorded])  # [rows, groups]
    epochs = None
    if "epoch" in table.column_names and pa.types.is_integer(table["epoch"].type):
        epochs = table["epoch"].fill_null(-1).to_numpy()[recorded]
    return GroupLosses(path, steps, columns.groups, losses, tuple(notes), positives, epochs)


def _floats(table: pa.Table, name: str, path: Path) -> np.ndarray:
    try:
        values: np.ndarray = table[name].cast(pa.float64()).to_numpy().astype(np.float32)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LossesError(f"{path}: column {name!r} does not hold numbers: {reason}") from None
    return values


def _steps(table: pa.Table, path: Path) -> np.ndarray:
    if "step" not in table.column_names:
        return np.arange(table.num_rows)
    try:
        steps: np.ndarray = table["step"].cast(pa.int64()).fill_null(-1).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise LossesError(f"{path}: column 'step' does not hold whole numbers") from None
    return steps


def _spacing(steps: np.ndarray) -> list[str]:
    """Notes on rows that are not single steps in rising order."""
    gaps = np.diff(steps)
    notes = []
    if (gaps <= 0).any():
        notes.append(
            f"the step does not rise at {int((gaps <= 0).sum())} rows; "
            "rows are taken in the order of the file"
        )
    gap = float(np.median(gaps)) if len(gaps) else 1.0
    if gap > 1:
        notes.append(
            f"rows are {gap:g} steps apart and each counts as one step, so an interval of 100 is "
            f"100 rows, {100 * gap:g} steps; if each row is a mean over its steps, rows vary less "
            "than single steps do, and schemes that use the variance see too little of it"
        )
    return notes
