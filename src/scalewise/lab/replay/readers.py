"""Losses of groups from whatever recorded them: our trace, a CSV file, a TensorBoard log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import torch
from torch import Tensor

from scalewise.lab.parquet import DamagedFile, read_table
from scalewise.lab.replay.columns import Columns, LossesError, find_columns
from scalewise.lab.replay.tensorboard import read_events


@dataclass(frozen=True)
class GroupLosses:
    r"""The unweighted loss of each group over time.

    Attributes:
        source: Where it was read.
        steps: int64 [rows], as recorded; rows are what a replay counts.
        groups: Names of the groups.
        values: float32 [rows, groups]; not finite where nothing usable was recorded.
        notes: What was left out, and what to keep in mind.
        positives: float32 [rows, groups], from columns positives/<group>; None where any is absent.
        epochs: int [rows], from a column epoch of whole numbers; None without one.

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


def read_losses(path: Path, tags: str | None = None) -> GroupLosses:
    r"""Read recorded losses of groups.

    Args:
        path: A run folder, a `.parquet` trace, a `.csv` file, or a TensorBoard log: an event file
            or a folder with event files in it.
        tags: Name of the columns or tags that hold a group's loss, with `{group}` and, for losses
            spread over several, `{term}` in it. Default: see `columns.find_columns`.

    Raises:
        LossesError: nothing can be read there, or it is unclear which losses are meant.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.replay.readers import read_losses
        >>> text = "step,loss/P3,loss/P4\n0,2.0,1.0\n1,1.0,0.5\n"
        >>> written = Path("losses.csv").write_text(text)
        >>> read_losses(Path("losses.csv")).values
        tensor([[2.0000, 1.0000],
                [1.0000, 0.5000]])
    """
    if not path.exists():
        raise LossesError(f"{path} does not exist")
    if path.is_dir():
        if (path / "trace.parquet").is_file():
            return read_losses(path / "trace.parquet", tags)
        table, columns, notes = read_events(_one_log(path), tags)
    elif "tfevents" in path.name:
        table, columns, notes = read_events(path, tags)
    elif path.suffix in (".parquet", ".csv"):
        table, notes = _read_table(path), []
        columns = find_columns(table.column_names, tags, str(path))
    else:
        raise LossesError(
            f"{path} is none of a run folder, a .parquet or .csv file, or a TensorBoard log"
        )
    return _from_table(table, columns, path, notes)


def _one_log(folder: Path) -> Path:
    """The folder with event files at or below `folder`."""
    logs = sorted({file.parent for file in folder.rglob("*tfevents*")})
    if not logs:
        raise LossesError(f"{folder} has neither a trace.parquet nor TensorBoard event files in it")
    if len(logs) > 1:
        raise LossesError(
            f"{folder} holds {len(logs)} TensorBoard logs; name one: "
            + ", ".join(str(log) for log in logs[:8])
        )
    return logs[0]


def _read_table(path: Path) -> pa.Table:
    if path.stat().st_size == 0:
        raise LossesError(f"{path} is empty: the recording stopped before its first write")
    try:
        if path.suffix == ".parquet":
            return read_table(path)
        return pc.read_csv(path, convert_options=pc.ConvertOptions(null_values=[""]))
    except DamagedFile as error:
        raise LossesError(str(error)) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise LossesError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _from_table(table: pa.Table, columns: Columns, path: Path, notes: Sequence[str]) -> GroupLosses:
    parts = np.stack([[_floats(table, n, path) for n in names] for names in columns.names])
    empty = [table[name].is_null().to_numpy() for names in columns.names for name in names]
    recorded = ~np.all(empty, axis=0)  # [rows]; logs also have rows of other things
    if not recorded.any():
        raise LossesError(f"{path}: no row has a loss of a group")
    notes = list(notes)
    if not recorded.all():
        notes.append(f"{int((~recorded).sum())} rows without any group's loss were left out")
    # In the layout and order in which training sums them: float32 adds up differently otherwise.
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
        raise LossesError(f"{path}: column {name!r} is no column of numbers: {reason}") from None
    return values


def _steps(table: pa.Table, path: Path) -> np.ndarray:
    if "step" not in table.column_names:
        return np.arange(table.num_rows)
    try:
        steps: np.ndarray = table["step"].cast(pa.int64()).fill_null(-1).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise LossesError(f"{path}: column 'step' is no column of whole numbers") from None
    return steps


def _spacing(steps: np.ndarray) -> list[str]:
    """What follows from rows that are no single, consecutive steps."""
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
            f"100 rows, {100 * gap:g} steps; if each row is a mean over its steps, it varies less "
            "than single steps do, which schemes that look at the variance take for calm"
        )
    return notes
