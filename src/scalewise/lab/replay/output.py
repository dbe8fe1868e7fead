"""Writes the weights of replays as a table and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalewise.files import whole, write_text
from scalewise.lab.letters import families
from scalewise.lab.replay.feed import Replayed
from scalewise.lab.replay.loss_table import GroupLosses
from scalewise.lab.training.group_style import (
    choice_note,
    chosen_groups,
    group_color,
    is_broken,
    safe_label,
)
from scalewise.lab.training.kinds import Kind


def write_weights(path: Path, losses: GroupLosses, replays: Sequence[Replayed]) -> None:
    """Write the weights as CSV, one line for each interval.

    Columns: scheme; interval, in steps; number; step, that of the interval's first row (empty for
    weights that would be used after the last row); weight/<group>; mean/<group> and
    variance/<group> of the interval's unweighted losses, per positive where groups are of positives
    (empty for an unfinished interval); action and probability/<action>, if a scheme has a policy.
    """
    policies = list(dict.fromkeys(name for r in replays for name in r.action_names))
    kinds = ("weight", "mean", "variance")
    text = io.StringIO()
    out = csv.DictWriter(
        text,
        ["scheme", "interval", "number", "step"]
        + [f"{kind}/{group}" for kind in kinds for group in losses.groups]
        + (["action"] + [f"probability/{name}" for name in policies] if policies else []),
        lineterminator="\n",
    )
    out.writeheader()
    for replayed in replays:
        for number, weights in enumerate(replayed.weights):
            row = int(replayed.starts[number])
            line: dict[str, object] = {
                "scheme": replayed.setting.scheme,
                "interval": replayed.setting.interval,
                "number": number,
                "step": losses.steps[row] if row < len(losses.steps) else "",
            }
            columns = [("weight", weights)]
            if number < len(replayed.means):
                columns += [("mean", replayed.means[number])]
                columns += [("variance", replayed.variances[number])]
            for kind, values in columns:
                for group, value in zip(losses.groups, values, strict=True):
                    line[f"{kind}/{group}"] = f"{value:.6g}"
            if replayed.action_names:
                line["action"] = replayed.actions[number] or ""
                chances = replayed.probabilities[number]
                for name, chance in zip(replayed.action_names, chances, strict=True):
                    line[f"probability/{name}"] = f"{chance:.6g}"
            out.writerow(line)
    write_text(path, text.getvalue())


def shown_groups(losses: GroupLosses, replays: Sequence[Replayed]) -> list[int]:
    """Indices of the groups to show: the ten whose weights went furthest from 1."""
    positives = None if losses.positives is None else losses.positives.numpy()
    return chosen_groups(np.concatenate([r.weights for r in replays]), positives)


def draw_weights(path: Path, losses: GroupLosses, replays: Sequence[Replayed], kind: Kind) -> None:
    """Draw a panel for each replay: a row for each scheme, a column for each interval."""
    schemes = list(dict.fromkeys(r.setting.scheme for r in replays))
    intervals = list(dict.fromkeys(r.setting.interval for r in replays))
    shown = shown_groups(losses, replays)
    with mpl.rc_context(
        {
            "font.family": families(losses.groups),
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        size = (1 + 3.6 * len(intervals), 0.6 + 1.9 * len(schemes))
        figure = Figure(figsize=size, layout="constrained", dpi=110)
        axes = figure.subplots(len(schemes), len(intervals), sharex=True, sharey="row")
        panels = {
            (scheme, interval): axes
            for scheme, row in zip(schemes, _rows(axes, len(schemes), len(intervals)), strict=True)
            for interval, axes in zip(intervals, row, strict=True)
        }
        for replayed in replays:
            setting = replayed.setting
            panel = panels[setting.scheme, setting.interval]
            _panel(panel, losses, replayed, shown)
            panel.set_title(f"{setting.scheme}, interval {setting.interval}", loc="left")
        for interval in intervals:
            panels[schemes[-1], interval].set_xlabel("step")
        for scheme in schemes:
            panels[scheme, intervals[0]].set_ylabel("weight")
        handles, labels = panels[schemes[0], intervals[0]].get_legend_handles_labels()
        longest = max(len(label) for label in labels)
        figure.legend(
            handles,
            labels,
            ncols=max(1, min(len(labels), int(size[0] * 13 / (longest + 6)))),
            loc="outside upper right",
            frameon=False,
            title=choice_note(len(shown), len(losses.groups), kind) or None,
        )
        with whole(path) as aside:
            figure.savefig(aside)


def _rows(axes: object, rows: int, columns: int) -> list[list[Axes]]:
    """The panels as a list of rows, whatever shape matplotlib gave them."""
    flat: list[Axes] = list(getattr(axes, "flat", [axes]))
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def _panel(axes: Axes, losses: GroupLosses, replayed: Replayed, shown: Sequence[int]) -> None:
    starts = [row for row in replayed.starts if row < len(losses.steps)]
    steps = [losses.steps[row] for row in starts] + [losses.steps[-1]]
    weights = replayed.weights[: len(starts)]
    for place, group in enumerate(shown):
        axes.step(
            steps,
            [*weights[:, group], weights[-1, group]],
            where="post",
            color=group_color(place),
            linestyle="--" if is_broken(place) else "-",
            label=safe_label(losses.groups[group]),
            linewidth=1,
        )
    axes.axhline(1.0, color="0.7", linewidth=0.8, zorder=0)
