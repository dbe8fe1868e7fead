"""The trace as a picture: losses, weights and policy over time, for at most ten groups."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalewise.files import whole
from scalewise.lab.letters import families
from scalewise.lab.training.group_style import choice_note, legend_beside, safe_label
from scalewise.lab.training.kinds import kind_of
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.trace_panels import Panels
from scalewise.lab.training.trace_reading import read_trace


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
    panels = Panels(table, kind)
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
    axes.set_ylabel("probability\n(band: action drawn)")
    legend_beside(axes)
