"""What happened at each level while a run trained: loss, variance, weight, action, policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalewise.report.figure import Figure, figure_html, number, plain
from scalewise.report.markup import Html, Section, Table, absent, choice, heading, join, paragraph
from scalewise.report.policy import BAND, action_keys, action_strip, held, policy_figure
from scalewise.report.subjects import Comparison, ReportRun
from scalewise.report.trace import (
    Floats,
    Integers,
    LevelTrace,
    block_means,
    blocks,
    interval_variance,
    read_levels,
    smoothed,
)
from scalewise.training.picture import level_color

POINTS = 400  # of a line, where few runs are shown
ALL_POINTS = 9600  # of a line over all runs shown, so that the page stays small
ALL_RUNS = 24  # beyond these only the first seed of each series is shown
TABLE_ROWS = 10


def shown_runs(comparison: Comparison) -> list[ReportRun]:
    """The runs whose traces are drawn: all where they are few, else each series' first seed.

    The baseline, whose weights tell the least, comes last.
    """
    ordered = sorted(comparison.series, key=lambda series: series.label == comparison.baseline)
    if len(comparison.runs) > ALL_RUNS:
        return [series.runs[0] for series in ordered]
    seeds = range(max(len(series.runs) for series in ordered))
    return [s.runs[seed] for seed in seeds for s in ordered if seed < len(s.runs)]


def selection_note(comparison: Comparison) -> Html:
    """Says which runs a section shows, where it is not all at once."""
    if len(comparison.runs) == 1:
        return Html("")
    if len(comparison.runs) <= ALL_RUNS:
        return paragraph("One run at a time; pick another from the list.")
    return paragraph(
        f"One run at a time, the first seed of each scheme: the study has {len(comparison.runs)} "
        "runs, too many for one page. Name other run folders to see theirs."
    )


def levels_section(comparisons: list[Comparison]) -> Section:
    """Loss, variance and weight of each level over time, with the drawn actions and the policy."""
    points = max(100, min(POINTS, ALL_POINTS // sum(len(shown_runs(c)) for c in comparisons)))
    parts: list[Html] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.title))
        parts.append(selection_note(comparison))
        options = [
            (run.label, _of_run(run, f"{comparison.key}-levels-{i}", points))
            for i, run in enumerate(shown_runs(comparison))
        ]
        parts.append(choice(f"{comparison.key}-levels", "Run:", options))
    return Section("levels", "What happened at each level", join(parts))


def _of_run(run: ReportRun, identity: str, points: int) -> Html:
    trace = read_levels(run.folder)
    if trace is None:
        return absent(
            f"{run.label} has no trace.parquet, or an empty one: no level losses to show."
        )
    charts = [figure_html(_level_figure(run, trace, identity, points))]
    if trace.probabilities:
        charts.append(figure_html(policy_figure(run, trace, f"{identity}-policy", points)))
    else:
        charts.append(
            absent(f"The scheme {run.config.scheme} draws no actions: it has no policy to show.")
        )
    return join(charts)


def _level_figure(run: ReportRun, trace: LevelTrace, identity: str, points: int) -> Figure:
    starts = blocks(len(trace.steps), points)
    middles = _middles(trace.steps, starts)
    width = max(1, len(trace.steps) // 50)
    loss = block_means(smoothed(trace.losses, width), starts)
    edges = trace.starts
    groups = blocks(len(edges), points)
    variance = block_means(interval_variance(trace), groups)
    weights = block_means(trace.weights[edges], groups)
    marks = trace.steps[edges][groups]
    traces: list[dict[str, Any]] = []
    for i, level in enumerate(trace.levels):
        common = {
            "name": plain(level),
            "legendgroup": level,
            "mode": "lines",
            "type": "scatter",
        }
        line = {"color": level_color(i), "width": 1.8}
        until = [*marks.tolist(), int(trace.steps[-1]) + 1]
        traces += [
            common | {"x": middles, "y": _positive(loss[:, i]), "line": line},
            common
            | {"x": until, "y": held(_positive(variance[:, i])), "yaxis": "y2"}
            | {"showlegend": False, "line": line | {"shape": "hv"}},
            common
            | {"x": until, "y": held(weights[:, i]), "yaxis": "y3"}
            | {"showlegend": False, "line": line | {"shape": "hv"}},
        ]
    band = 0.09 if trace.drawn else 0.0
    room = (1 - band) / 3
    log = {"type": "log", "exponentformat": "power"}
    layout: dict[str, Any] = {
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "step"}, "anchor": "y4" if trace.drawn else "y3"},
        "yaxis": log | {"title": {"text": "loss"}, "domain": [band + 2 * room + 0.02, 1]},
        "yaxis2": log
        | {"title": {"text": "variance"}, "domain": [band + room + 0.02, band + 2 * room - 0.02]},
        "yaxis3": {"title": {"text": "weight"}, "domain": [band, band + room - 0.02]},
    }
    reading = (
        "From the top: the loss of each level, unweighted, as a moving average over a fiftieth of "
        "the run, on a logarithmic axis; its variance over the steps of each interval; and the "
        "weight in force, 1 being what equal weights give"
    )
    if trace.drawn:
        strip = action_strip(trace, "y4", list(trace.probabilities))
        traces += strip + action_keys(list(trace.probabilities), "legend2")
        layout["yaxis4"] = BAND | {"domain": [0, band - 0.035]}
        layout["legend2"] = {
            "orientation": "h",
            "x": 0,
            "y": -0.09,
            "yanchor": "top",
            "title": {"text": "drawn (band): "},
        }
        reading += "; the band at the bottom is the action that was drawn for the interval"
    return Figure(
        identity,
        f"{run.label}: loss, variance and weight of each level",
        reading + ".",
        traces,
        _level_table(trace),
        layout,
        height=880 if trace.drawn else 720,
    )


def _level_table(trace: LevelTrace) -> Table:
    starts = blocks(len(trace.steps), TABLE_ROWS)
    loss, weights = block_means(trace.losses, starts), block_means(trace.weights, starts)
    edges = trace.starts
    interval_means = interval_variance(trace)
    ends = [*starts[1:], len(trace.steps)]
    rows = []
    for b, (start, end) in enumerate(zip(starts, ends, strict=True)):
        inside = (edges >= start) & (edges < end)
        spread = [_mean(interval_means[inside, i]) for i in range(len(trace.levels))]
        row = [f"{trace.steps[start]} to {trace.steps[end - 1]}"]
        row += [number(v) for values in (loss[b], spread, weights[b]) for v in values]
        if trace.drawn:
            row.append(_most_drawn(trace, [int(e) for e in edges[inside]]))
        rows.append(row)
    header = ["steps"] + [
        f"{what} {level}" for what in ("loss", "variance", "weight") for level in trace.levels
    ]
    return Table(header + (["most drawn"] if trace.drawn else []), rows)


def _most_drawn(trace: LevelTrace, edges: list[int]) -> str:
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
