"""Charts of a metric over the epochs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.lab.report.figure import Figure, figure_html, stacked
from scalewise.lab.report.markup import Html, Section, Table, absent, join
from scalewise.lab.report.subjects import Comparison, Series


def learning_section(comparisons: list[Comparison], metric: str) -> Section:
    """Charts of the metric after each epoch."""
    parts: list[Html] = []
    for comparison in comparisons:
        figure = _learning_figure(comparison, metric)
        parts.append(
            figure_html(figure)
            if figure
            else absent(f"{comparison.title}: no epoch was validated with {metric}.")
        )
    return Section("learning", "Learning curves", join(parts))


def _learning_figure(comparison: Comparison, metric: str) -> Figure | None:
    curves = {series.label: _curve(series, metric) for series in comparison.series}
    if not any(curves.values()):
        return None
    drawn = [series for series in comparison.series if curves[series.label]]
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    rows = [
        [str(epoch), *(_mean_text(curves[series.label].get(epoch)) for series in drawn)]
        for epoch in epochs
    ]
    several = max(len(series.runs) for series in comparison.series) > 1
    return Figure(
        f"{comparison.key}-learning",
        f"{comparison.title}: {metric} after each epoch",
        f"{metric} in points on the validation split"
        + (
            "; lines are means over seeds, and the shaded area goes from the lowest to the highest."
            if several
            else ", one line for each run."
        ),
        [trace for series in drawn for trace in _curve_traces(series, curves[series.label])],
        Table(["epoch", *(series.label for series in drawn)], rows),
        {
            "hovermode": "x unified",
            "xaxis": {
                "title": {"text": "epoch"},
                **({"dtick": 1} if len(epochs) < 20 else {"tickformat": "d"}),
            },
            "yaxis": {"title": {"text": f"{metric}, points"}, "rangemode": "tozero"},
        },
    )


def _curve(series: Series, metric: str) -> dict[int, list[float]]:
    """For each epoch, the metric of every run that has it, in points."""
    found: dict[int, list[float]] = {}
    for run in series.runs:
        for epoch in run.history:
            value = epoch.get(metric, math.nan)
            if not math.isnan(value):
                found.setdefault(int(epoch["epoch"]), []).append(100 * value)
    return dict(sorted(found.items()))


def _curve_traces(series: Series, curve: dict[int, list[float]]) -> list[dict[str, Any]]:
    """The line of the mean; if there are several runs, with their range behind it."""
    color, _, dash = series.style
    x, found = list(curve), list(curve.values())
    span = {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": series.label,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": x + x[::-1],
        "y": [max(values) for values in found] + [min(values) for values in found][::-1],
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.16,
        "line": {"width": 0},
    }
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": stacked(series.label),
        "legendgroup": series.label,
        "x": x,
        "y": [float(np.mean(values)) for values in found],
        "line": {"color": color, "dash": dash, "width": 2},
        "marker": {"size": 4},
    }
    return [span, line] if len(series.runs) > 1 else [line]


def _mean_text(values: list[float] | None) -> str:
    return f"{np.mean(values):.1f}" if values else "-"
