"""The trace: every step's losses of the groups, with the weights and the action that were in force.

Steps stay on the device until `flush`, so that recording costs one copy per `log_every` steps and
never makes a step wait. One row a step:

    step, epoch, interval, lr,
    loss/<term>/<group>, background/<term>, positives/<group>, weight/<group>,
    action, probability/<name>

A group is a level, or the positives of one size or class; only where positives are grouped does
the background stand apart. What the recording loop does not know is left out: epoch and lr in
`scalewise.record`, whose losses are not split into terms either and stand in loss/<group>.
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


@dataclass
class TraceInterval:
    """What stayed the same over an interval; tensors on the device.

    Attributes:
        number: Count of intervals finished before it.
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
        path: Parquet file; rows from before `first_step` are read back from it and kept.
        terms: Names of the loss terms; ("",) for losses that are not split into terms.
        groups: Names of the groups.
        actions: Names of the policy's actions, empty without a policy.
        first_step: The step at which recording begins; later rows in `path` stem from an attempt
            that was interrupted after its last checkpoint, and are dropped.
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

        What is None must be None at every step, and gets no column.

        Args:
            step: Forward passes so far.
            epoch: Epochs finished.
            lr: Learning rate.
            losses: float [terms, n], or [terms, n + 1] with the background's last; unweighted;
                copied.
            positives: float [n], locations with an object to predict.
            interval: What was in force during the step.
        """
        self._steps.append((step, epoch, lr))
        rows = [losses]
        if positives is not None:
            rows.append(F.pad(positives, (0, losses.shape[1] - len(positives)))[None])
        self._values.append(torch.cat(rows))  # [terms, columns] or [terms + 1, columns]
        self._intervals.append(interval)

    def flush(self) -> pa.Table | None:
        """Bring the pending rows to the host, in one copy, and return them; None without any."""
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


def read_trace(path: Path) -> pa.Table:
    """Read a trace written by `Trace.save`.

    Raises:
        DamagedFile: the file is not what was written.
    """
    table = read_table(path)
    if "step" not in table.column_names or not group_names(table.column_names):
        raise DamagedFile(f"{path} is no trace: it has no column step or weight/<group>")
    return table


def group_names(columns: Sequence[str]) -> list[str]:
    """Names of a trace's groups, in their order: what follows "weight/", whatever it is."""
    return [name.removeprefix("weight/") for name in columns if name.startswith("weight/")]


def loss_columns(columns: Sequence[str], groups: Sequence[str]) -> list[list[str]] | None:
    """The columns of a trace that add up to the loss of each group.

    A name may hold any character, "/" too; that of a term holds none.

    Args:
        columns: All of the trace's.
        groups: Names of its groups.

    Returns:
        As many columns for each group; None where the losses are not those of the groups.
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
    """The columns that add up to the background's loss; none where it is in the groups."""
    return [name for name in columns if name.partition("/")[0] == "background"]
