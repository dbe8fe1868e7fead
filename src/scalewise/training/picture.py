"""The trace as a picture: level losses, weights and policy over time."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalewise.training.trace import read_trace

COLORS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7")  # Okabe-Ito: safe for colour-blind


def level_color(level: int) -> str:
    """The colour that stands for a level in every picture."""
    return COLORS[level % len(COLORS)]


def draw_levels(run: Path) -> Path | None:
    """Draw `levels.png` from a run's trace.

    Returns:
        The picture's path; None for a run that recorded no step.
    """
    if not (run / "trace.parquet").is_file():
        return None
    table = read_trace(run / "trace.parquet")
    if not table.num_rows:
        return None
    levels = [name.partition("/")[2] for name in table.column_names if name.startswith("weight/")]
    names = [n.partition("/")[2] for n in table.column_names if n.startswith("probability/")]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        rows = 4 if names else 3
        figure = Figure(figsize=(9, 2.3 * rows), layout="constrained", dpi=120)
        axes = figure.subplots(rows, 1, sharex=True)
        _losses(axes[0], table, levels)
        _shares(axes[1], table, levels)
        _weights(axes[2], table, levels)
        if names:
            _policy(axes[3], table, names)
        axes[-1].set_xlabel("step")
        figure.suptitle(f"{run.name}: what happened at each level")
        aside = run / f".levels.{os.getpid()}.png"
        figure.savefig(aside)
    os.replace(aside, run / "levels.png")
    return run / "levels.png"


def level_losses(table: pa.Table, level: str) -> np.ndarray:
    """Loss of a level at every step, float [steps]: the sum of its terms."""
    columns = [n for n in table.column_names if n.startswith("loss/") and n.endswith(f"/{level}")]
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


def _legend(axes: Axes, columns: int) -> None:
    """Names above the panel, where no curve runs."""
    axes.legend(ncols=columns, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _losses(axes: Axes, table: pa.Table, levels: list[str]) -> None:
    steps = table["step"].to_numpy()
    losses = [level_losses(table, level) for level in levels]
    axes.plot(steps, _smooth(np.sum(losses, axis=0)), color="0.6", linestyle="--", label="total")
    for i, level in enumerate(levels):
        axes.plot(steps, _smooth(losses[i]), color=level_color(i), label=level)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("loss (unweighted)")
    _legend(axes, len(levels) + 1)


def _shares(axes: Axes, table: pa.Table, levels: list[str]) -> None:
    smooth = np.stack([_smooth(level_losses(table, level)) for level in levels])  # [n, steps]
    share = smooth / np.maximum(smooth.sum(0), 1e-12)
    colors = [level_color(i) for i in range(len(levels))]
    axes.stackplot(table["step"].to_numpy(), share, colors=colors, alpha=0.85)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the loss")


def _weights(axes: Axes, table: pa.Table, levels: list[str]) -> None:
    steps = table["step"].to_numpy()
    for i, level in enumerate(levels):
        axes.step(
            steps,
            table[f"weight/{level}"].to_numpy(),
            where="post",
            color=level_color(i),
            label=level,
        )
    axes.axhline(1.0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_ylabel("weight")


def _policy(axes: Axes, table: pa.Table, names: list[str]) -> None:
    steps = table["step"].to_numpy()
    styles = ("-", "--", "-.", ":")
    shades = mpl.colormaps["tab10"]
    for i, name in enumerate(names):
        chance = table[f"probability/{name}"].to_numpy()
        axes.step(steps, chance, styles[i % 4], where="post", color=shades(i), label=name)
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
    _legend(axes, min(4, len(names)))
