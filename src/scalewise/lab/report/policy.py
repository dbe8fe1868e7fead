"""Draws the policy of a run: the probabilities of actions, and the drawn actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalewise.lab.report.figure import SERIES_COLORS, Figure, chart_text, number
from scalewise.lab.report.markup import Table
from scalewise.lab.report.smoothing import block_means, blocks
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.report.trace_series import Floats, GroupTrace

BAND: dict[str, Any] = {  # the axis of a band of colours, without numbers
    "showticklabels": False,
    "ticks": "",
    "showgrid": False,
    "zeroline": False,
    "fixedrange": True,
}


def policy_figure(run: ReportRun, trace: GroupTrace, identity: str, points: int) -> Figure:
    """A chart of the probability of every action over the steps, and of the drawn actions."""
    names = list(trace.probabilities)
    edges = trace.starts
    first = edges[blocks(len(edges), points)]  # row at which each point of the lines begins
    marks = [*trace.steps[first].tolist(), int(trace.steps[-1]) + 1]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": chart_text(name),
            "x": marks,
            "y": held(block_means(trace.probabilities[name], first)),
            "line": {"shape": "hv", "width": 2, "color": _action_color(i)},
        }
        for i, name in enumerate(names)
    ]
    layout = {
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "step"}, "anchor": "y2"},
        "yaxis": {"title": {"text": "probability"}, "domain": [0.16, 1], "rangemode": "tozero"},
        "yaxis2": BAND | {"domain": [0, 0.1]},
    }
    drawn = [trace.drawn[e] for e in edges] if trace.drawn else []
    rows = [
        [
            name,
            number(float(trace.probabilities[name][0])),
            number(float(trace.probabilities[name][-1])),
            str(drawn.count(name)),
            str((trace.drawn or []).count(name)),
        ]
        for name in names
    ]
    return Figure(
        identity,
        f"{run.label}: policy",
        f"Probability with which each of the {len(names)} actions is drawn for the next interval; "
        "the band below shows the drawn actions. A policy that has learned nothing gives each "
        f"action {number(1 / len(names))}.",
        traces + action_strip(trace, "y2", names),
        Table(["action", "probability at start", "at the end", "intervals drawn", "steps"], rows),
        layout,
        height=400,
    )


def action_strip(trace: GroupTrace, axis: str, names: list[str]) -> list[dict[str, Any]]:
    """The drawn action of every interval as a band of colours."""
    if trace.drawn is None:
        return []
    edges = trace.starts
    drawn = [trace.drawn[e] for e in edges]
    scale: list[list[Any]] = []
    for i in range(len(names)):
        scale += [[i / len(names), _action_color(i)], [(i + 1) / len(names), _action_color(i)]]
    return [
        {
            "type": "heatmap",
            "x": [*trace.steps[edges].tolist(), int(trace.steps[-1]) + 1],
            "z": [[names.index(name) if name is not None else None for name in drawn]],
            "text": [[chart_text(name) if name is not None else "none" for name in drawn]],
            "hovertemplate": "drawn: %{text}<extra></extra>",
            "hoverongaps": False,
            "yaxis": axis,
            "zmin": -0.5,
            "zmax": len(names) - 0.5,
            "colorscale": scale,
            "showscale": False,
        }
    ]


def action_keys(names: list[str], legend: str) -> list[dict[str, Any]]:
    """Legend entries for the actions, without points in the chart."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [None],
            "y": [None],
            "name": chart_text(name),
            "legend": legend,
            "marker": {"symbol": "square", "size": 11, "color": _action_color(i)},
        }
        for i, name in enumerate(names)
    ]


def _action_color(index: int) -> str:
    return SERIES_COLORS[index % len(SERIES_COLORS)]


def held(values: Floats) -> Floats:
    """Repeat the last value, so that its line goes on to the end of its interval."""
    return np.concatenate([values, values[-1:]])
