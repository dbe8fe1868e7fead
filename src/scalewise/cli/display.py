"""Tables for the end of a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scalewise.training.runs import load_json

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


def percent(value: float | None) -> str:
    """An average precision as people quote it; "-" where there is nothing to measure."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _figures(metrics: Mapping[str, float | None], title: str) -> Table:
    """One row with the summary figures that there are."""
    table = Table(title=title)
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
            classes.add_row(name[3:], percent(value))
    console.print(classes)


def show_run(run: Path) -> None:
    """Print a finished run: AP of its best epoch beside the weights of its levels."""
    metrics = load_json(run / "metrics.json")
    console = Console()
    best = metrics["best"]
    if best is not None:
        title = f"{run.name}: best epoch {best['epoch']}, on {metrics['split']}"
        console.print(_figures(best, title))
    weights = Table(title="weight of each level at the end")
    for level in metrics["weights"]:
        weights.add_column(level, justify="right")
    weights.add_row(*(f"{weight:.3f}" for weight in metrics["weights"].values()))
    console.print(weights)
    for kind, what in (("skipped_not_finite", "not finite"), ("skipped_outliers", "outliers")):
        if any(metrics[kind].values()):
            print(f"level losses left out of the statistics, {what}: {metrics[kind]}")
    print(f"run folder: {run}\npicture:    {run / 'levels.png'}")
