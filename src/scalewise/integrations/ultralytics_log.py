"""Level losses and weights of an Ultralytics run, by epoch: a CSV file and its picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


class LevelLog:
    """One row an epoch, in a file that is always whole.

    Args:
        file: CSV file; rows of earlier epochs in it are kept.
        strides: of the levels, in pixels.
        epochs: that are done; other rows in the file are of an interrupted or an older run.
    """

    def __init__(self, file: Path, strides: Sequence[int], epochs: int) -> None:
        self.file = file
        self.strides = strides
        self.rows: list[dict[str, float]] = []
        if epochs and file.is_file():
            with file.open(newline="") as lines:
                rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]
            self.rows = [row for row in rows if row["epoch"] <= epochs]

    def add(self, epoch: int, means: Mapping[str, Sequence[float]]) -> None:
        """Write the means of an epoch (from 1), one number per level by name."""
        row = {"epoch": float(epoch)}
        for name, values in means.items():
            for stride, value in zip(self.strides, values, strict=True):
                row[f"stride{stride}/{name}"] = value
        self.rows = [old for old in self.rows if old["epoch"] < epoch] + [row]
        aside = self.file.with_suffix(".tmp")
        with aside.open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(row)
            writer.writerows(
                [int(old["epoch"])] + [f"{old.get(key, float('nan')):.6g}" for key in list(row)[1:]]
                for old in self.rows
            )
        os.replace(aside, self.file)

    def plot(self, file: Path) -> None:
        """Draw level losses and weights by epoch into a PNG file."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(10, 4), layout="constrained")
        epochs = [row["epoch"] for row in self.rows]
        titles = {"loss": "level loss, unweighted", "weight": "level weight"}
        for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for stride in self.strides:
                values = [row.get(f"stride{stride}/{name}", float("nan")) for row in self.rows]
                axes.plot(epochs, values, marker=".", label=f"stride {stride}")
            axes.set(title=title, xlabel="epoch", yscale="log" if name == "loss" else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        figure.savefig(file, dpi=150)
