"""Tables for the end of a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalewise.lab.data.text import printable
from scalewise.lab.training.kinds import Kind, kind_of, percent
from scalewise.lab.training.run_options import load_config
from scalewise.lab.training.runs import load_json

MOST_COLUMNS, MOST_ROWS = 8, 20  # of a table of weights

FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "VOC_AP50_11",
    "VOC_AP50_area",
)


def _figures(metrics: Mapping[str, float | None], title: str) -> Table:
    """One row with the summary figures that there are."""
    table = Table(title=Text(printable(title)))
    known = [name for name in FIGURES if name in metrics]
    for name in known:
        table.add_column(name, justify="right")
    table.add_row(*(percent(metrics[name]) for name in known))
    return table


def show_metrics(metrics: dict[str, float], title: str) -> None:
    """Print the summary figures and each class's AP."""
    console = Console()
    console.print(_figures(metrics, title))
    classes = Table(title="AP of each class")
    classes.add_column("class")
    classes.add_column("AP", justify="right")
    for name, value in metrics.items():
        if name.startswith("AP/"):
            classes.add_row(Text(printable(name[3:])), percent(value))
    console.print(classes)


def show_run(run: Path) -> None:
    """Print a finished run: AP of its best epoch beside the weights of its groups."""
    metrics = load_json(run / "metrics.json")
    kind = kind_of(load_config(run).by)
    console = Console()
    best = metrics["best"]
    if best is not None:
        title = f"{run.name}: best epoch {best['epoch']}, on {metrics['split']}"
        console.print(_figures(best, title))
    for line in _weights(metrics["weights"], kind):
        console.print(line)
    for name, what in (("skipped_not_finite", "not finite"), ("skipped_outliers", "outliers")):
        counts = [f"{printable(g)} {count}" for g, count in metrics[name].items() if count]
        if left_out := ", ".join(counts):
            print(f"losses left out of the statistics of a {kind.one}, {what}: {left_out}")
    print(f"run folder: {run}\npicture:    {run / 'groups.png'}")


def _weights(weights: Mapping[str, float], kind: Kind) -> list[Table | str]:
    """A row with all weights; or, of many groups, a column with the largest and the least."""
    table = Table(title=f"weight of each {kind.one} at the end")
    if len(weights) <= MOST_COLUMNS:
        for name in weights:
            table.add_column(Text(printable(name)), justify="right")
        table.add_row(*(f"{weight:.3f}" for weight in weights.values()))
        return [table]
    table.add_column(kind.one)
    table.add_column("weight", justify="right")
    ordered = sorted(weights, key=weights.__getitem__, reverse=True)
    hidden = len(ordered) - MOST_ROWS
    for place, name in enumerate(ordered):
        if hidden <= 0 or place < MOST_ROWS // 2 or place >= MOST_ROWS // 2 + hidden:
            cut = hidden > 0 and place == MOST_ROWS // 2 - 1
            table.add_row(Text(printable(name)), f"{weights[name]:.3f}", end_section=cut)
    return [table, f"{hidden} {kind.many} between them are not shown"] if hidden > 0 else [table]
