"""Reads the scalars of a TensorBoard log as a table."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from scalewise.lab.replay.columns import Columns, LossesError, find_columns

_FRAME = 16  # bytes beside the data of an event: its length and two checksums


def read_events(path: Path, tags: str | None) -> tuple[pa.Table, Columns, list[str]]:
    """Read the losses of groups from an event file, or from all event files of a folder.

    Args:
        path: Event file, or a folder with event files; these are read in the order of their names.
        tags: As in `readers.read_losses`.

    Returns:
        A table with `step` and a column for each tag, with the steps that all tags have; the
        columns of each group; and notes on what was left out.

    Raises:
        LossesError: the log has no losses of groups, or no step has the losses of all groups.
    """
    files = sorted(path.glob("*tfevents*")) if path.is_dir() else [path]
    series = _scalars(files)
    names = sorted(series, key=lambda n: [int(p) if p.isdecimal() else p for p in _parts(n)])
    columns = find_columns(names, tags, str(path))
    wanted = {name: series[name] for parts in columns.names for name in parts}
    every = set.union(*(set(values) for values in wanted.values()))
    common = sorted(set.intersection(*(set(values) for values in wanted.values())))
    if not common:
        raise LossesError(f"{path}: no step has the losses of all groups {columns.groups}")
    notes = [*_damage(files)]
    if len(every) > len(common):
        notes.append(
            f"{len(every) - len(common)} of {len(every)} steps lack the loss of some group and "
            "were left out"
        )
    table: dict[str, object] = {"step": pa.array(common, pa.int64())}
    for name, values in wanted.items():
        table[name] = np.array([values[step] for step in common], dtype=np.float32)
    return pa.table(table), columns, notes


def _scalars(files: list[Path]) -> dict[str, dict[int, float]]:
    """The value of each tag at each step; if a step was logged twice, the last value.

    A step is logged twice if a run was resumed. Scalars of TensorFlow and of PyTorch both arrive
    here as tensors.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    series: dict[str, dict[int, float]] = {}
    for file in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and value.metadata.plugin_data.plugin_name in (
                    "scalars",
                    "",
                ):
                    array = tensor_util.make_ndarray(value.tensor)
                    if array.size == 1 and array.dtype.kind == "f":
                        series.setdefault(value.tag, {})[event.step] = float(array.reshape(()))
    return series


def _damage(files: list[Path]) -> Iterator[str]:
    """Notes on files that cannot be read to their end; TensorBoard itself does not report them."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    for file in files:
        read = sum(_FRAME + len(record) for record in RawEventFileLoader(str(file)).Load())
        size = file.stat().st_size
        if read < size:
            yield (
                f"{file} is damaged or was cut short: only the first {read} of its {size} bytes "
                "could be read, and later steps are left out"
            )


def _parts(name: str) -> list[str]:
    """Split a name into text and numbers, so that P10 comes after P9."""
    return re.split(r"(\d+)", name)
