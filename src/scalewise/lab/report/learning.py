"""Average precision over the epochs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.lab.report.figure import Figure, figure_html, stacked
from scalewise.lab.report.markup import Html, Section, Table, absent, join
from scalewise.lab.report.subjects import Comparison


def learning_section(comparisons: list[Comparison], metric: str) -> Section:
    """The metric after each epoch."""
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
    traces: list[dict[str, Any]] = []
    columns: dict[str, dict[int, str]] = {}
    for series in comparison.series:
        epochs = sorted({int(e["epoch"]) for run in series.runs for e in run.history})
        found = [
            [
                100 * e[metric]
                for run in series.runs
                for e in run.history
                if int(e["epoch"]) == epoch and not math.isnan(e.get(metric, math.nan))
            ]
            for epoch in epochs
        ]
        kept = [(epoch, values) for epoch, values in zip(epochs, found, strict=True) if values]
        if not kept:
            continue
        color, _, dash = series.style
        x = [epoch for epoch, _ in kept]
        if len(series.runs) > 1:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "legendgroup": series.label,
                    "showlegend": False,
                    "hoverinfo": "skip",
                    "x": x + x[::-1],
                    "y": [max(v) for _, v in kept] + [min(v) for _, v in kept][::-1],
                    "fill": "toself",
                    "fillcolor": color,
                    "opacity": 0.16,
                    "line": {"width": 0},
                }
            )
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": stacked(series.label),
                "legendgroup": series.label,
                "x": x,
                "y": [float(np.mean(v)) for _, v in kept],
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"size": 4},
            }
        )
        columns[series.label] = {epoch: f"{np.mean(v):.1f}" for epoch, v in kept}
    if not columns:
        return None
    shown = sorted({epoch for column in columns.values() for epoch in column})
    several = max(len(series.runs) for series in comparison.series) > 1
    return Figure(
        f"{comparison.key}-learning",
        f"{comparison.title}: {metric} after each epoch",
        f"{metric} in points on the validation split"
        + (
            "; lines are means over seeds, shaded from the lowest to the highest seed."
            if several
            else ", one line a run."
        ),
        traces,
        Table(
            ["epoch", *columns],
            [
                [str(epoch), *(column.get(epoch, "-") for column in columns.values())]
                for epoch in shown
            ],
        ),
        {
            "hovermode": "x unified",
            "xaxis": {
                "title": {"text": "epoch"},
                **({"dtick": 1} if len(shown) < 20 else {"tickformat": "d"}),
            },
            "yaxis": {"title": {"text": f"{metric}, points"}, "rangemode": "tozero"},
        },
    )
