"""Reads losses of groups from a trace of scalewise, a CSV file or a TensorBoard log."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from scalewise.lab.parquet import DamagedFile, read_table
from scalewise.lab.replay.columns import LossesError, find_columns
from scalewise.lab.replay.loss_table import GroupLosses, from_table
from scalewise.lab.replay.tensorboard import read_events


def read_losses(path: Path, tags: str | None = None) -> GroupLosses:
    r"""Read recorded losses of groups.

    Args:
        path: A run folder, a `.parquet` trace, a `.csv` file, or a TensorBoard log: an event file
            or a folder with event files in it.
        tags: Pattern of the names of columns or tags that hold a group's loss, with `{group}` in it
            and, if a loss is the sum of several columns, with `{term}` too. Default: see
            `columns.find_columns`.

    Raises:
        LossesError: the file cannot be read, or it is unclear which of its losses are meant.

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
            f"{path} is not a run folder, a .parquet or .csv file, or a TensorBoard log"
        )
    return from_table(table, columns, path, notes)


def _one_log(folder: Path) -> Path:
    """The only folder with event files, `folder` or one inside it."""
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
