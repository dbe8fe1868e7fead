"""The panels of a trace's picture: losses, shares and weights over the steps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from scalewise.lab.training.group_style import (
    BACKGROUND_COLOR,
    REST_COLOR,
    chosen_groups,
    group_color,
    is_broken,
    legend_beside,
    safe_label,
)
from scalewise.lab.training.kinds import Kind
from scalewise.lab.training.trace_reading import (
    background_columns,
    group_losses,
    group_names,
    sum_columns,
)


class Panels:
    """What the panels show of a trace.

    If positives are grouped, losses are shown per positive, so that a frequent group and a rare one
    can be compared.
    """

    def __init__(self, table: pa.Table, kind: Kind) -> None:
        self.kind = kind
        self.steps = table["step"].to_numpy()
        self.groups = group_names(table.column_names)
        self._loss = np.stack([group_losses(table, group) for group in self.groups], axis=1)
        self._weight = np.stack([table[f"weight/{g}"].to_numpy() for g in self.groups], axis=1)
        known = {f"positives/{group}" for group in self.groups} <= set(table.column_names)
        self._positives = (
            np.stack([table[f"positives/{g}"].to_numpy() for g in self.groups], axis=1)
            if known
            else None
        )
        rest = background_columns(table.column_names)
        self._background = sum_columns(table, rest) if rest else None
        self.shown = chosen_groups(self._weight, self._positives)

    def losses(self, axes: Axes) -> None:
        """Draw the losses, with the legend for all panels beside them."""
        total = self._loss.sum(1) + (0.0 if self._background is None else self._background)
        axes.plot(self.steps, _smooth(total), color="0.6", linestyle=":", label="(whole loss)")
        if self._background is not None:
            axes.plot(
                self.steps,
                _smooth(self._background),
                color=BACKGROUND_COLOR,
                label="(background)",
            )
        for place, group in enumerate(self.shown):
            axes.plot(
                self.steps,
                self._curve(group),
                color=group_color(place),
                linestyle="--" if is_broken(place) else "-",
                label=safe_label(self.groups[group]),
            )
        axes.set_ylim(bottom=0)
        of = "per positive" if self._per_positive else f"of each {self.kind.one}"
        axes.set_ylabel(f"loss {of}\n(unweighted)")
        legend_beside(axes)

    def shares(self, axes: Axes) -> None:
        """Draw shares, stacked up to 1: of the positives if they are grouped, else of the loss."""
        values = self._positives if self._per_positive else self._loss
        assert values is not None
        smooth = np.stack([_smooth(column) for column in values.T])  # [n, steps]
        share = smooth / np.maximum(smooth.sum(0), 1e-12)
        parts = [*share[self.shown], 1 - share[self.shown].sum(0)]
        colors = [*(group_color(place) for place in range(len(self.shown))), REST_COLOR]
        if len(self.shown) == len(self.groups):
            parts, colors = parts[:-1], colors[:-1]
        axes.stackplot(self.steps, parts, colors=colors, alpha=0.85)
        axes.set_ylim(0, 1)
        axes.set_ylabel(f"share of the {'positives' if self._per_positive else 'loss'}")

    def weights(self, axes: Axes) -> None:
        """Draw the weights in force."""
        for place, group in enumerate(self.shown):
            axes.step(
                self.steps,
                self._weight[:, group],
                where="post",
                color=group_color(place),
                linestyle="--" if is_broken(place) else "-",
            )
        axes.axhline(1.0, color="0.7", linewidth=0.8, zorder=0)
        axes.set_ylabel("weight")

    @property
    def _per_positive(self) -> bool:
        return self._background is not None and self._positives is not None

    def _curve(self, group: int) -> np.ndarray:
        if not self._per_positive or self._positives is None:
            return _smooth(self._loss[:, group])
        counts = _smooth(self._positives[:, group])
        summed = _smooth(self._loss[:, group] * self._positives.sum(1))
        mean: np.ndarray = np.divide(
            summed, counts, out=np.full_like(summed, np.nan), where=counts > 1e-9
        )
        return mean


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a fiftieth of the run, without a shift and without zero padding."""
    width = max(1, len(values) // 50)
    kernel = np.ones(width)
    smooth: np.ndarray = np.convolve(values, kernel, "same") / np.convolve(
        np.ones(len(values)), kernel, "same"
    )
    return smooth
