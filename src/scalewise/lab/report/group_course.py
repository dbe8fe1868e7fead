"""A chart of what happened to each group over a run: loss, variance, weight and action."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalewise.lab.report.figure import Figure, chart_text, number
from scalewise.lab.report.markup import (
    Table,
)
from scalewise.lab.report.policy import BAND, action_keys, action_strip, held
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.report.trace_series import (
    Floats,
    GroupTrace,
    Integers,
    block_losses,
    block_means,
    blocks,
    interval_variance,
    smoothed,
    smoothed_loss,
)
from scalewise.lab.training.trace_picture import (
    BACKGROUND_COLOR,
    choice_note,
    group_color,
    is_broken,
)

TABLE_ROWS = 10
LINES = {"mode": "lines", "type": "scatter"}


def group_figure(run: ReportRun, trace: GroupTrace, identity: str, points: int) -> Figure:
    """Three charts above each other, and a band of the actions where the scheme draws any.

    Args:
        run: Whose trace it is.
        trace: Its losses and weights.
        identity: Unique on the page.
        points: Of a line, at most.
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
        _course_table(trace, named),
        _group_layout(trace, named),
        height=880 if trace.drawn else 720,
    )


def _group_traces(trace: GroupTrace, points: int) -> list[dict[str, Any]]:
    """Loss, variance and weight of each group that is shown, and the background's loss."""
    starts = blocks(len(trace.steps), points)
    middles = _middles(trace.steps, starts)
    width = max(1, len(trace.steps) // 50)
    loss = block_means(smoothed_loss(trace, width), starts)
    edges = trace.starts
    several = blocks(len(edges), points)  # intervals to a point
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
    """Three axes above each other, and a band for the actions below them."""
    band = 0.09 if trace.drawn else 0.0
    room = (1 - band) / 3
    log = {"type": "log", "exponentformat": "power"}
    # per positive, groups are alike; whole levels lie orders of magnitude apart
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
    """How to read the chart."""
    what = (
        f"loss per positive of each {run.kind.one} (its loss over its share of the positives)"
        if trace.per_positive
        else f"loss of each {run.kind.one}"
    )
    reading = (
        f"From the top: the {what}, unweighted, as a moving average over a fiftieth of the run"
        f"{'' if trace.per_positive else ', on a logarithmic axis'}; its variance over the steps "
        "of each interval; and the weight in force, 1 being what equal weights give"
    )
    if trace.drawn:
        reading += "; the band at the bottom is the action that was drawn for the interval"
    reading += "."
    if trace.background is not None:
        reading += " Grey: the loss of the background, which no weight touches."
    return reading


def _course_table(trace: GroupTrace, named: str) -> Table:
    """What the chart shows, in ten parts of the run."""
    starts = blocks(len(trace.steps), TABLE_ROWS)
    loss, weights = block_losses(trace, starts), block_means(trace.weights, starts)
    edges = trace.starts
    interval_means = interval_variance(trace)
    ends = [*starts[1:], len(trace.steps)]
    rows = []
    for b, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = (edges >= start) & (edges < end)
        spread = np.array([_mean(column) for column in interval_means[inside].T])
        row = [f"{trace.steps[start]} to {trace.steps[end - 1]}"]
        row += [number(v) for values in (loss[b], spread, weights[b]) for v in values[trace.shown]]
        if trace.background is not None:
            row.append(number(_mean(trace.background[start:end])))
        if trace.drawn:
            row.append(_most_drawn(trace, [int(e) for e in edges[inside]]))
        rows.append(row)
    header = ["steps"] + [
        f"{what} {trace.groups[i]}" for what in (named, "variance", "weight") for i in trace.shown
    ]
    header += ["loss of the background"] if trace.background is not None else []
    return Table(header + (["most drawn"] if trace.drawn else []), rows)


def shown_note(run: ReportRun, trace: GroupTrace) -> str:
    """A sentence on which groups a chart shows; empty where it is all of them."""
    note = choice_note(len(trace.shown), len(trace.groups), run.kind)
    return f" Shown are {note}." if note else ""


def _most_drawn(trace: GroupTrace, edges: list[int]) -> str:
    drawn = [trace.drawn[e] for e in edges] if trace.drawn else []
    counts = {name: drawn.count(name) for name in trace.probabilities if name in drawn}
    if not counts:
        return "-"
    name = max(counts, key=lambda action: counts[action])
    return f"{name}, {counts[name]} of {len(drawn)}"


def _middles(steps: Integers, starts: Integers) -> list[int]:
    ends = [*starts[1:], len(steps)]
    return [int((steps[a] + steps[b - 1]) // 2) for a, b in zip(starts, ends, strict=True)]


def _positive(values: Floats) -> Floats:
    """Values for a logarithmic axis, which has no place for 0."""
    return np.where(values > 0, values, np.nan)


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
