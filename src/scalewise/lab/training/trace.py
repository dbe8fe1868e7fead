"""The trace: the losses of the groups at every step, with the weights and the action then in force.

Steps stay on the device until `flush`, so recording costs one copy per `log_every` steps and never
makes a step wait. There is one row per step:

    step, epoch, interval, lr,
    loss/<term>/<group>, background/<term>, positives/<group>, weight/<group>,
    action, probability/<name>

A group is a level, or the positives of one size or class. There is a background of its own only if
positives are grouped. What the recording loop does not know is left out: `scalewise.record` knows
no epoch and no lr, and its losses are not split into terms, so they are in loss/<group>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.lab.parquet import DamagedFile, read_table, write_table
from scalewise.lab.training.trace_reading import group_names


@dataclass
class TraceInterval:
    """What stayed the same during an interval; tensors on the device.

    Attributes:
        number: Number of intervals finished before it.
        weights: float32 [n].
        action: int64 scalar, -1 for none; None for schemes without a policy.
        probabilities: float32 [actions]; None for schemes without a policy.
    """

    number: int
    weights: Tensor
    action: Tensor | None = None
    probabilities: Tensor | None = None


@dataclass
class Trace:
    """Collects the rows of one run and keeps `path` up to date.

    Args:
        path: Parquet file; its rows from before `first_step` are read back and kept.
        terms: Names of the loss terms; ("",) for losses that are not split into terms.
        groups: Names of the groups.
        actions: Names of the policy's actions, empty without a policy.
        first_step: The step at which recording begins. Later rows in `path` come from an attempt
            that was interrupted after its last checkpoint; they are dropped.
    """

    path: Path
    terms: Sequence[str]
    groups: Sequence[str]
    actions: Sequence[str] = ()
    first_step: int = 0
    _tables: list[pa.Table] = field(default_factory=list)
    _steps: list[tuple[int, int | None, float | None]] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)
    _intervals: list[TraceInterval] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.is_file():
            old = read_table(self.path)
            found = group_names(old.column_names)
            if found != list(self.groups):
                raise DamagedFile(
                    f"{self.path} is the trace of another run: it has the groups {found}, "
                    f"this run {list(self.groups)}"
                )
            self._tables = [old.filter(pc.field("step") < self.first_step)]

    def add(
        self,
        step: int,
        epoch: int | None,
        lr: float | None,
        losses: Tensor,
        positives: Tensor | None,
        interval: TraceInterval,
    ) -> None:
        """Record a step without waiting for the device.

        An argument that is None must be None at every step; it gets no column.

        Args:
            step: Forward passes so far.
            epoch: Epochs finished.
            lr: Learning rate.
            losses: float [terms, n], or [terms, n + 1] with the background last; unweighted. They
                are copied.
            positives: float [n], number of locations with an object to predict.
            interval: The weights and the action in force during the step.
        """
        self._steps.append((step, epoch, lr))
        rows = [losses]
        if positives is not None:
            rows.append(F.pad(positives, (0, losses.shape[1] - len(positives)))[None])
        self._values.append(torch.cat(rows))  # [terms, columns] or [terms + 1, columns]
        self._intervals.append(interval)

    def flush(self) -> pa.Table | None:
        """Copy the pending rows to the host at once and return them; None if there are none."""
        if not self._steps:
            return None
        values = torch.stack(self._values).float().cpu().numpy()  # as added
        distinct = list({id(i): i for i in self._intervals}.values())
        row_of = {id(interval): row for row, interval in enumerate(distinct)}
        rows = [row_of[id(interval)] for interval in self._intervals]
        weights = torch.stack([i.weights for i in distinct]).float().cpu().numpy()[rows]

        steps, epochs, rates = zip(*self._steps, strict=True)
        columns: dict[str, object] = {
            "step": pa.array(steps, pa.int64()),
            "epoch": pa.array(epochs, pa.int32()),
            "interval": pa.array([i.number for i in self._intervals], pa.int32()),
            "lr": pa.array(rates, pa.float64()),
        }
        for name, known in (("epoch", epochs[0]), ("lr", rates[0])):
            if known is None:
                del columns[name]
        for t, term in enumerate(self.terms):
            for n, group in enumerate(self.groups):
                columns[f"loss/{term}/{group}" if term else f"loss/{group}"] = values[:, t, n]
        if values.shape[2] > len(self.groups):
            for t, term in enumerate(self.terms):
                columns[f"background/{term}" if term else "background"] = values[:, t, -1]
        if values.shape[1] > len(self.terms):
            for n, group in enumerate(self.groups):
                columns[f"positives/{group}"] = values[:, -1, n]
        for n, group in enumerate(self.groups):
            columns[f"weight/{group}"] = weights[:, n]
        if self.actions:
            drawn = torch.stack([i.action for i in distinct if i.action is not None]).tolist()
            names = [None if a < 0 else self.actions[a] for a in drawn]
            columns["action"] = pa.array([names[row] for row in rows], pa.string())
            policies = [i.probabilities for i in distinct if i.probabilities is not None]
            chances = torch.stack(policies).float().cpu().numpy()[rows]
            for a, name in enumerate(self.actions):
                columns[f"probability/{name}"] = chances[:, a]
        table = pa.table(columns)
        self._tables.append(table)
        self._steps, self._values, self._intervals = [], [], []
        return table

    def save(self) -> None:
        """Write all rows so far."""
        self.flush()
        if not self._tables:
            return
        self._tables = [pa.concat_tables(self._tables)]
        write_table(self.path, self._tables[0])
