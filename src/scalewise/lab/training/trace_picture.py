"""The trace as a picture: losses, weights and policy over time, of the groups that matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalewise.files import whole
from scalewise.lab.letters import families, known_letters
from scalewise.lab.training.kinds import Kind, kind_of
from scalewise.lab.training.runs import load_config
from scalewise.lab.training.trace import background_columns, group_names, loss_columns, read_trace

MOST = 10  # groups in one chart
# Okabe-Ito, safe for colour-blind, then five that are told from them by their broken lines too
COLORS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7")
MORE_COLORS = ("#56b4e9", "#882255", "#999933", "#8c510a", "#6a3d9a")
BACKGROUND_COLOR = "#8a8f98"
REST_COLOR = "#c9cdd2"
LONGEST = 24  # characters of a name in a legend


def level_color(level: int) -> str:
    """The colour that stands for a level in every picture."""
    return COLORS[level % len(COLORS)]


def group_color(place: int) -> str:
    """The colour of a group in a chart; that of the level where groups are levels.

    Args:
        place: Its place among the groups of the chart, below `MOST`.
    """
    return (COLORS + MORE_COLORS)[place % MOST]


def is_broken(place: int) -> bool:
    """Whether a group's line is broken, so that its colour need not be told from a like one."""
    return place % MOST >= len(COLORS)


def chosen_groups(weights: np.ndarray, positives: np.ndarray | None) -> list[int]:
    """The groups that a chart shows, ascending: at most ten, those whose weights went furthest.

    Args:
        weights: float [rows, n], of all rows.
        positives: float [rows, n], by whose sum ties are settled; None where they are not known.

    Returns:
        Places of those with the largest distance from 1 in any row, on the logarithmic scale.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(weights)).max(0)  # infinite for a weight of 0
    counts = np.zeros(weights.shape[1]) if positives is None else np.nansum(positives, 0)
    order = np.lexsort((np.arange(len(counts)), -counts, -np.nan_to_num(distance, nan=0.0)))
    return sorted(order[:MOST].tolist())


def choice_note(shown: int, count: int, kind: Kind) -> str:
    """Says which groups a chart shows where it is not all of them; else empty."""
    if shown == count:
        return ""
    return f"{shown} of {count} {kind.many}: those whose weights went furthest from 1"


def group_losses(table: pa.Table, group: str) -> np.ndarray:
    """Loss of a group at every step, float [steps]: the sum of its terms."""
    groups = group_names(table.column_names)
    columns = loss_columns(table.column_names, groups)
    if columns is None:
        raise ValueError(f"the losses of the trace are not those of its groups {groups}")
    return sum_columns(table, columns[groups.index(group)])


def draw_groups(run: Path) -> Path | None:
    """Draw `groups.png` from a run's trace.

    Returns:
        The picture's path; None for a run that recorded no step.
    """
    if not (run / "trace.parquet").is_file():
        return None
    table = read_trace(run / "trace.parquet")
    if not table.num_rows:
        return None
    kind = kind_of(load_config(run).by if (run / "config.yaml").is_file() else None)
    panels = _Panels(table, kind)
    names = [
        n.removeprefix("probability/") for n in table.column_names if n.startswith("probability/")
    ]
    with mpl.rc_context(
        {
            "font.family": families([run.name, *panels.groups]),
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        rows = 4 if names else 3
        figure = Figure(figsize=(10, 2.3 * rows), layout="constrained", dpi=120)
        axes = figure.subplots(rows, 1, sharex=True)
        panels.losses(axes[0])
        panels.shares(axes[1])
        panels.weights(axes[2])
        if names:
            _policy(axes[3], table, names)
        axes[-1].set_xlabel("step")
        note = choice_note(len(panels.shown), len(panels.groups), kind)
        figure.suptitle(
            f"{safe_label(run.name)}: what happened to each {kind.one}"
            + (f"\n{note}" if note else "")
        )
        with whole(run / "groups.png") as aside:
            figure.savefig(aside)
    return run / "groups.png"


class _Panels:
    """What the panels show of a trace.

    Where positives are grouped, losses are per positive: by how much a group is behind does not
    depend on how frequent it is.
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
        """Curves, with the legend for all panels beside them."""
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
        _legend(axes)

    def shares(self, axes: Axes) -> None:
        """Shares of the positives where these are grouped, else of the loss, stacked up to 1."""
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
        """Weights in force."""
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


def sum_columns(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Sum of columns of numbers, float64 [rows]."""
    total: np.ndarray = sum((table[n].to_numpy() for n in columns), np.zeros(table.num_rows))
    return total


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a fiftieth of the run, without a shift and without zero padding."""
    width = max(1, len(values) // 50)
    kernel = np.ones(width)
    smooth: np.ndarray = np.convolve(values, kernel, "same") / np.convolve(
        np.ones(len(values)), kernel, "same"
    )
    return smooth


def safe_label(name: str) -> str:
    """A name as matplotlib takes it: it reads formulas between dollars, and hides "_names"."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    short = known_letters(short).replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short


def _legend(axes: Axes) -> None:
    """Names beside the panel, none below its end."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
        frameon=False,
        fontsize="small" if len(axes.lines) > 8 else "medium",
        labelspacing=0.3,
    )


def _policy(axes: Axes, table: pa.Table, names: list[str]) -> None:
    steps = table["step"].to_numpy()
    styles = ("-", "--", "-.", ":")
    shades = mpl.colormaps["tab10"]
    for i, name in enumerate(names):
        chance = table[f"probability/{name}"].to_numpy()
        axes.step(
            steps, chance, styles[i % 4], where="post", color=shades(i), label=safe_label(name)
        )
    drawn = np.array(table["action"].to_pylist(), dtype=object)
    edges = np.flatnonzero(np.diff(table["interval"].to_numpy())) + 1
    for begin, end in zip([0, *edges], [*edges, len(steps)], strict=True):
        if drawn[begin] is not None:
            axes.axvspan(
                steps[begin],
                steps[end - 1] + 1,
                ymin=0,
                ymax=0.06,
                color=shades(names.index(drawn[begin])),
                linewidth=0,
            )
    axes.set_ylim(-0.08, 1)
    axes.set_ylabel("probability; drawn: band")
    _legend(axes)
