"""Losses and weights of the groups of an Ultralytics run, by epoch: a CSV file and its picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from scalewise.files import whole

SHOWN = 10  # groups in a picture


class GroupLog:
    """One row an epoch, in a file that is always whole.

    Args:
        file: CSV file; rows of earlier epochs in it are kept.
        groups: names of the groups.
        epochs: number of finished epochs; later rows in the file come from an interrupted or an
            older run, and are dropped.
    """

    def __init__(self, file: Path, groups: Sequence[str], epochs: int) -> None:
        self.file = file
        self.groups = groups
        self.rows: list[dict[str, float]] = []
        if epochs and file.is_file():
            with file.open(newline="") as lines:
                rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]
            self.rows = [row for row in rows if row["epoch"] <= epochs]

    def add(self, epoch: int, means: Mapping[str, float]) -> None:
        """Write the means of an epoch (from 1), such as "loss/small"."""
        row = {"epoch": float(epoch), **means}
        self.rows = [old for old in self.rows if old["epoch"] < epoch] + [row]
        with whole(self.file) as aside, aside.open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(row)
            writer.writerows(
                [int(old["epoch"])] + [f"{old.get(key, math.nan):.6g}" for key in list(row)[1:]]
                for old in self.rows
            )

    def shown(self) -> list[str]:
        """The groups worth a line: at most ten, those whose last weight is furthest from 1."""
        if len(self.groups) <= SHOWN or not self.rows:
            return list(self.groups)
        last = self.rows[-1]

        def distance(group: str) -> float:
            return abs(math.log(max(last[f"weight/{group}"], 1e-6)))

        chosen = sorted(self.groups, key=distance, reverse=True)[:SHOWN]
        return [group for group in self.groups if group in chosen]

    def plot(self, file: Path) -> None:
        """Draw the losses and weights of `shown` by epoch into a PNG file."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(10, 4), layout="constrained")
        epochs = [row["epoch"] for row in self.rows]
        shown = self.shown()
        titles = {"loss": "loss of the group, unweighted", "weight": "weight"}
        panels = figure.subplots(1, 2)
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            for group in shown:
                values = [row.get(f"{name}/{group}", math.nan) for row in self.rows]
                axes.plot(epochs, values, marker=".", label=group)
            axes.set(title=title, xlabel="epoch", yscale="log" if name == "loss" else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
        if len(shown) < len(self.groups):
            figure.suptitle(
                f"the {len(shown)} of {len(self.groups)} groups whose weight is furthest from 1"
            )
        figure.savefig(file, dpi=150)
