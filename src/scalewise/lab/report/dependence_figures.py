"""Draws the charts of shares and correlations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.lab.report.correlations import group_shares
from scalewise.lab.report.figure import Figure, chart_text, figure_html
from scalewise.lab.report.group_course import shown_note
from scalewise.lab.report.markup import Html, Table
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.report.trace_series import Floats, GroupTrace
from scalewise.lab.training.group_style import REST_COLOR, group_color

DIVERGING = [[0, "#d55e00"], [0.5, "#f5f5f5"], [1, "#0072b2"]]


def share_figure(run: ReportRun, trace: GroupTrace, grams: Floats | None, identity: str) -> Figure:
    """A chart of each group's share of losses, positives and, with `grams`, gradient norms."""
    shares = group_shares(trace, grams)
    names = [trace.groups[i] for i in trace.shown]
    parts = {name: share[trace.shown] for name, share in shares.items()}
    colors = [group_color(place) for place in range(len(names))]
    if rest := len(trace.groups) - len(names):
        names.append(f"the other {rest}")
        parts = {name: np.append(part, 1 - part.sum()) for name, part in parts.items()}
        colors.append(REST_COLOR)
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": chart_text(name),
            "y": list(parts),
            "x": [100 * part[i] for part in parts.values()],
            "text": [f"{100 * p[i]:.0f}" if p[i] >= 0.04 else "" for p in parts.values()],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "hovertemplate": f"{chart_text(name)}: %{{x:.3g}} %<extra></extra>",
            "marker": {"color": colors[i]},
        }
        for i, name in enumerate(names)
    ]
    layout: dict[str, Any] = {
        "barmode": "stack",
        "legend": {
            "traceorder": "normal",
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
        },
        "xaxis": {"title": {"text": "share, percent"}, "range": [0, 100], "dtick": 25},
        "yaxis": {"autorange": "reversed"},
    }
    rows = [[name, *(f"{100 * value:.2f} %" for value in part)] for name, part in parts.items()]
    even = 100 / len(trace.groups)
    loss = "run's loss on positives" if trace.per_positive else "run's loss"
    return Figure(
        identity,
        f"{run.label}: each {run.kind.one}'s share",
        f"Each {run.kind.one}'s share of the {loss}, before and after weighting, and of the other "
        f"sums; equally important {run.kind.many} would have {even:.3g} percent each."
        + _background_share(trace)
        + shown_note(run, trace),
        traces,
        Table(["share of", *names], rows),
        layout,
        height=110 + 55 * len(shares) + (80 if len(names) > 6 else 0),
    )


def _background_share(trace: GroupTrace) -> str:
    """A sentence on the loss that belongs to no group; empty if there is none."""
    if trace.background is None:
        return ""
    background = float(np.nansum(trace.background))
    whole = background + float(np.nansum(trace.losses))
    share = f"{100 * background / whole:.0f}" if whole > 0 else "-"
    return f" The background, which no weight touches, has {share} percent of the whole loss."


def matrix_figure(
    run: ReportRun, trace: GroupTrace, identity: str, title: str, reading: str, matrix: Floats
) -> Html:
    """A heat map with a value in -1..1 for each pair of groups; `matrix` is [groups, groups]."""
    cells = [[_two(float(value)) for value in row] for row in matrix]
    groups = [trace.groups[i] for i in trace.shown]
    names = [chart_text(group) for group in groups]
    many = len(groups) > 6
    content = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": matrix,
        "text": [[cell.replace("0.", ".") for cell in row] for row in cells] if many else cells,
        "texttemplate": "%{text}",
        "textfont": {"size": 9} if many else {},
        "hovertemplate": "%{y} and %{x}: %{z:.3f}<extra></extra>",
        "zmin": -1,
        "zmax": 1,
        "colorscale": DIVERGING,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    # names such as "1" or "2001" must not become numbers or dates
    shared = {"type": "category", "showgrid": False, "fixedrange": True}
    layout = {
        "xaxis": shared,
        "yaxis": shared | {"autorange": "reversed"},
        "margin": {"l": 28, "r": 8, "t": 8, "b": 28},
    }
    return figure_html(
        Figure(
            identity,
            f"{run.label}: {title}",
            reading + shown_note(run, trace),
            [content],
            Table(["", *groups], [[group, *row] for group, row in zip(groups, cells, strict=True)]),
            layout,
            height=420 if many else 320,
        )
    )


def _two(value: float) -> str:
    """A number with two decimals and a true minus sign; "-" for NaN."""
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
