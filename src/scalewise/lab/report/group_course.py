"""Draws loss, variance, weight and action of each group over a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalewise.lab.report.course_table import course_table
from scalewise.lab.report.figure import Figure, chart_text
from scalewise.lab.report.policy import BAND, action_keys, action_strip, held
from scalewise.lab.report.smoothing import (
    block_means,
    blocks,
    interval_variance,
    smoothed,
    smoothed_loss,
)
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.report.trace_series import Floats, GroupTrace, Integers
from scalewise.lab.training.group_style import BACKGROUND_COLOR, choice_note, group_color, is_broken

LINES = {"mode": "lines", "type": "scatter"}


def group_figure(run: ReportRun, trace: GroupTrace, identity: str, points: int) -> Figure:
    """Three charts above each other, and a band of actions if the scheme draws any.

    Args:
        run: The run.
        trace: Its losses and weights.
        identity: HTML id, unique on the page.
        points: Largest number of points in a line.
    """
    named = "loss per positive" if trace.per_positive else "loss"
    traces = _group_traces(trace, points)
    if trace.drawn:
        actions = list(trace.probabilities)
        traces += action_strip(trace, "y4", actions) + action_keys(actions, "legend2")
    return Figure(
        identity,
        f"{run.label}: loss, variance and weight of each {run.kind.one}",
        _reading(run, trace) + shown_note(run, trace),
        traces,
        course_table(trace, named),
        _group_layout(trace, named),
        height=880 if trace.drawn else 720,
    )


def _group_traces(trace: GroupTrace, points: int) -> list[dict[str, Any]]:
    """Traces of loss, variance and weight of each shown group, and of the background's loss."""
    starts = blocks(len(trace.steps), points)
    middles = _middles(trace.steps, starts)
    width = max(1, len(trace.steps) // 50)
    loss = block_means(smoothed_loss(trace, width), starts)
    edges = trace.starts
    several = blocks(len(edges), points)  # first intervals of the points
    variance = block_means(interval_variance(trace), several)
    weights = block_means(trace.weights, edges[several])
    until = [*trace.steps[edges][several].tolist(), int(trace.steps[-1]) + 1]
    traces: list[dict[str, Any]] = []
    if trace.background is not None:
        rest = block_means(smoothed(trace.background[:, None], width), starts)[:, 0]
        line: dict[str, Any] = {"color": BACKGROUND_COLOR, "width": 1.8}
        traces.append(LINES | {"name": "(background)", "x": middles, "y": rest, "line": line})
    for place, i in enumerate(trace.shown):
        common = LINES | {"name": chart_text(trace.groups[i]), "legendgroup": trace.groups[i]}
        dash = "dash" if is_broken(place) else "solid"
        line = {"color": group_color(place), "width": 1.8, "dash": dash}
        held_line = {"showlegend": False, "x": until, "line": line | {"shape": "hv"}}
        traces += [
            common | {"x": middles, "y": _positive(loss[:, i]), "line": line},
            common | held_line | {"y": held(_positive(variance[:, i])), "yaxis": "y2"},
            common | held_line | {"y": held(weights[:, i]), "yaxis": "y3"},
        ]
    return traces


def _group_layout(trace: GroupTrace, named: str) -> dict[str, Any]:
    """The layout: three axes above each other, and a band for the actions below."""
    band = 0.09 if trace.drawn else 0.0
    room = (1 - band) / 3
    log = {"type": "log", "exponentformat": "power"}
    # losses per positive are of similar size; those of whole levels differ by orders of magnitude
    scale = {"rangemode": "tozero"} if trace.per_positive else log
    layout: dict[str, Any] = {
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "step"}, "anchor": "y4" if trace.drawn else "y3"},
        "yaxis": scale | {"title": {"text": named}, "domain": [band + 2 * room + 0.02, 1]},
        "yaxis2": log
        | {"title": {"text": "variance"}, "domain": [band + room + 0.02, band + 2 * room - 0.02]},
        "yaxis3": {"title": {"text": "weight"}, "domain": [band, band + room - 0.02]},
    }
    if trace.drawn:
        layout["yaxis4"] = BAND | {"domain": [0, band - 0.035]}
        layout["legend2"] = {
            "orientation": "h",
            "x": 0,
            "y": -0.09,
            "yanchor": "top",
            "title": {"text": "drawn (band): "},
        }
    return layout


def _reading(run: ReportRun, trace: GroupTrace) -> str:
    """The text on how to read the chart."""
    what = (
        f"loss per positive of each {run.kind.one} (its loss over its share of the positives)"
        if trace.per_positive
        else f"loss of each {run.kind.one}"
    )
    reading = (
        f"From the top: the unweighted {what}, as a moving average over 1/50 of the run"
        f"{'' if trace.per_positive else ', on a logarithmic axis'}; its variance over the steps "
        "of each interval; and the weight, where 1 is the value of equal weights"
    )
    if trace.drawn:
        reading += "; the band at the bottom is the action that was drawn for the interval"
    reading += "."
    if trace.background is not None:
        reading += " Grey: the loss of the background, which no weight touches."
    return reading


def shown_note(run: ReportRun, trace: GroupTrace) -> str:
    """A sentence on which groups a chart shows; empty if it shows all of them."""
    note = choice_note(len(trace.shown), len(trace.groups), run.kind)
    return f" The chart shows {note}." if note else ""


def _middles(steps: Integers, starts: Integers) -> list[int]:
    ends = [*starts[1:], len(steps)]
    return [int((steps[a] + steps[b - 1]) // 2) for a, b in zip(starts, ends, strict=True)]


def _positive(values: Floats) -> Floats:
    """Values for a logarithmic axis: NaN in place of 0 and negative values."""
    return np.where(values > 0, values, np.nan)
