"""Reads a trace: its groups, and the columns that add up to their losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from scalewise.lab.parquet import DamagedFile, read_table


def read_trace(path: Path) -> pa.Table:
    """Read a trace written by `Trace.save`.

    Raises:
        DamagedFile: the file is broken or is not a trace.
    """
    table = read_table(path)
    if "step" not in table.column_names or not group_names(table.column_names):
        raise DamagedFile(f"{path} is not a trace: it has no column step or weight/<group>")
    return table


def group_names(columns: Sequence[str]) -> list[str]:
    """Names of a trace's groups, in their order: everything after "weight/" in a column's name."""
    return [name.removeprefix("weight/") for name in columns if name.startswith("weight/")]


def loss_columns(columns: Sequence[str], groups: Sequence[str]) -> list[list[str]] | None:
    """The columns of a trace that add up to the loss of each group.

    A group's name may hold any character, also "/"; a term's name holds no "/".

    Args:
        columns: All columns of the trace.
        groups: Names of its groups.

    Returns:
        For each group its columns, the same number for all; None if the losses belong to other
        groups.
    """
    losses = {name for name in columns if name.startswith("loss/")}
    if not losses:
        return None
    if losses == {f"loss/{group}" for group in groups}:
        return [[f"loss/{group}"] for group in groups]
    terms = list(dict.fromkeys(name.split("/")[1] for name in columns if name in losses))
    found = [[f"loss/{term}/{group}" for term in terms] for group in groups]
    return found if losses == {name for names in found for name in names} else None


def background_columns(columns: Sequence[str]) -> list[str]:
    """The columns that add up to the background's loss; none if the groups contain it."""
    return [name for name in columns if name.partition("/")[0] == "background"]


def group_losses(table: pa.Table, group: str) -> np.ndarray:
    """Loss of a group at every step, float [steps]: the sum of its terms."""
    groups = group_names(table.column_names)
    columns = loss_columns(table.column_names, groups)
    if columns is None:
        raise ValueError(f"the losses of the trace do not belong to its groups {groups}")
    return sum_columns(table, columns[groups.index(group)])


def sum_columns(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Sum of columns of numbers, float64 [rows]."""
    total: np.ndarray = sum((table[n].to_numpy() for n in columns), np.zeros(table.num_rows))
    return total


def means_and_last(
    table: pa.Table, terms: Sequence[str], groups: Sequence[str], actions: Sequence[str]
) -> dict[str, float]:
    """Means over the rows of `table` for losses; the last row for what changes by interval."""
    values = {"lr": table["lr"][-1].as_py()}
    total = 0.0
    for group in groups:
        loss = sum(table[f"loss/{t}/{group}"].to_numpy().mean() for t in terms)
        values[f"loss/{group}"] = float(loss)
        total += float(loss)
        values[f"weight/{group}"] = table[f"weight/{group}"][-1].as_py()
    if rest := background_columns(table.column_names):
        values["background"] = float(sum(table[name].to_numpy().mean() for name in rest))
        total += values["background"]
    values["loss"] = total
    for name in actions:
        values[f"probability/{name}"] = table[f"probability/{name}"][-1].as_py()
    if actions:
        drawn = table["action"][-1].as_py()
        values["action"] = float(actions.index(drawn)) if drawn is not None else -1.0
    return values
