"""How the gradients of groups compare; a measurement costs one backward pass per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from scalewise.lab.parquet import DamagedFile, read_table, write_table


def group_gram(losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Inner products of the groups' gradients with respect to all parameters.

    The products are in float32 also under autocast, which would multiply in 16 bits.

    Args:
        losses: float [n], unweighted, with a graph; the graph is kept.
        parameters: the parameters p of the gradients.

    Returns:
        float32 [n, n], `G_ij = <dl_i/dp, dl_j/dp>`: the diagonal holds squared norms, and
        `G_ij / sqrt(G_ii G_jj)` is the cosine between two groups.
    """
    rows = []
    for loss in losses.unbind():
        parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).detach().float().flatten()
                    for g, p in zip(parts, parameters, strict=True)
                ]
            )
        )
    gradients = torch.stack(rows)  # [n, all parameters]
    with torch.autocast(losses.device.type, enabled=False):
        return gradients @ gradients.T


@dataclass
class GradientLog:
    """Keeps `gradients.parquet`: one row per measurement, columns step and gram/<a>/<b>, a <= b.

    Args:
        path: The file; its rows from before `first_step` are read back and kept.
        groups: Names of the groups.
        first_step: The step at which recording begins.
    """

    path: Path
    groups: Sequence[str]
    first_step: int = 0
    _old: pa.Table | None = None
    _steps: list[int] = field(default_factory=list)
    _grams: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.is_file():
            old = read_table(self.path)
            if old.column_names != ["step", *self._columns()]:
                raise DamagedFile(
                    f"{self.path} is of another run: it does not have the groups "
                    f"{list(self.groups)}"
                )
            self._old = old.filter(pc.field("step") < self.first_step)

    def _columns(self) -> list[str]:
        return [
            f"gram/{one}/{other}" for i, one in enumerate(self.groups) for other in self.groups[i:]
        ]

    def add(self, step: int, gram: Tensor) -> None:
        """Record a measurement, float32 [n, n], without waiting for the device."""
        self._steps.append(step)
        self._grams.append(gram)

    def save(self) -> None:
        """Write all rows so far; if there was no measurement, write no file."""
        if not self._steps and self._old is None:
            return
        tables = [] if self._old is None else [self._old]
        if self._steps:
            grams = torch.stack(self._grams).cpu().numpy()  # [rows, n, n]
            columns: dict[str, object] = {"step": pa.array(self._steps, pa.int64())}
            for i, one in enumerate(self.groups):
                for j, other in enumerate(self.groups[i:], i):
                    columns[f"gram/{one}/{other}"] = grams[:, i, j]
            tables.append(pa.table(columns))
        write_table(self.path, pa.concat_tables(tables))
