"""What happened to each group while a run trained: loss, variance, weight, action, policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalewise.lab.report.ap_charts import percent
from scalewise.lab.report.figure import Figure, figure_html, number, plain
from scalewise.lab.report.markup import (
    Html,
    Section,
    Table,
    absent,
    choice,
    heading,
    join,
    paragraph,
    searchable,
    table,
)
from scalewise.lab.report.policy import BAND, action_keys, action_strip, held, policy_figure
from scalewise.lab.report.subjects import Comparison, ReportRun, common_kind
from scalewise.lab.report.trace_series import (
    Floats,
    GroupTrace,
    Integers,
    block_losses,
    block_means,
    blocks,
    interval_variance,
    read_groups,
    smoothed,
    smoothed_loss,
)
from scalewise.lab.training.trace_picture import (
    BACKGROUND_COLOR,
    choice_note,
    group_color,
    is_broken,
)

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


def groups_section(comparisons: list[Comparison]) -> Section:
    """Loss, variance and weight of each group over time, with the drawn actions and the policy."""
    points = max(100, min(POINTS, ALL_POINTS // sum(len(shown_runs(c)) for c in comparisons)))
    parts: list[Html] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.title))
        parts.append(selection_note(comparison))
        options = [
            (run.label, _of_run(run, f"{comparison.key}-groups-{i}", points))
            for i, run in enumerate(shown_runs(comparison))
        ]
        parts.append(choice(f"{comparison.key}-groups", "Run:", options))
    title = f"What happened to each {common_kind(comparisons).one}"
    return Section("groups", title, join(parts))


def shown_note(run: ReportRun, trace: GroupTrace) -> str:
    """A sentence on which groups a chart shows; empty where it is all of them."""
    note = choice_note(len(trace.shown), len(trace.groups), run.kind)
    return f" Shown are {note}." if note else ""


def _of_run(run: ReportRun, identity: str, points: int) -> Html:
    trace = read_groups(run.folder)
    if trace is None:
        return absent(
            f"{run.label} has no trace.parquet, or an empty one: no losses to show of the "
            f"{run.kind.many}."
        )
    parts = [figure_html(_group_figure(run, trace, identity, points))]
    parts.append(_all_groups(run, trace, f"{identity}-all"))
    if trace.probabilities:
        parts.append(figure_html(policy_figure(run, trace, f"{identity}-policy", points)))
    else:
        parts.append(
            absent(f"The scheme {run.config.scheme} draws no actions: it has no policy to show.")
        )
    return join(parts)


def _group_figure(run: ReportRun, trace: GroupTrace, identity: str, points: int) -> Figure:
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
        traces.append(
            {
                "name": "(background)",
                "mode": "lines",
                "type": "scatter",
                "x": middles,
                "y": rest,
                "line": {"color": BACKGROUND_COLOR, "width": 1.8},
            }
        )
    for place, i in enumerate(trace.shown):
        common = {
            "name": plain(trace.groups[i]),
            "legendgroup": trace.groups[i],
            "mode": "lines",
            "type": "scatter",
        }
        dash = "dash" if is_broken(place) else "solid"
        line = {"color": group_color(place), "width": 1.8, "dash": dash}
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
    named = "loss per positive" if trace.per_positive else "loss"
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
    reading += "."
    if trace.background is not None:
        reading += " Grey: the loss of the background, which no weight touches."
    return Figure(
        identity,
        f"{run.label}: loss, variance and weight of each {run.kind.one}",
        reading + shown_note(run, trace),
        traces,
        _course_table(trace, named),
        layout,
        height=880 if trace.drawn else 720,
    )


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


def _all_groups(run: ReportRun, trace: GroupTrace, identity: str) -> Html:
    """The table of all groups, with a search box where they are more than a chart shows."""
    caption = f"{run.label}: all {len(trace.groups)} {run.kind.many}, over the whole run"
    content = table(all_groups_table(run, trace), caption)
    if len(trace.shown) == len(trace.groups):
        return content
    return searchable(identity, f"Find a {run.kind.one}:", content)


def all_groups_table(run: ReportRun, trace: GroupTrace) -> Table:
    """A row a group, the largest share of the positives first; and AP at the end for classes."""
    means, weights = block_losses(trace, np.array([0]))[0], trace.weights.mean(0)
    count = len(trace.groups)
    shares = np.full(count, np.nan)
    if trace.positives is not None:
        shares = trace.positives.sum(0) / max(float(trace.positives.sum()), 1.0)
    header = [run.kind.one, "share of the positives"]
    header += ["mean loss per positive" if trace.per_positive else "mean loss"]
    header += ["mean weight", "final weight"]
    classes = run.config.by == "class"
    rows = []
    for i in np.argsort(-np.nan_to_num(shares), kind="stable"):
        share = "-" if np.isnan(shares[i]) else f"{100 * shares[i]:.2f} %"
        row = [trace.groups[i], share, number(means[i]), number(weights[i])]
        row.append(number(float(trace.weights[-1, i])))
        if classes:
            row.append(percent(run.last.get(f"AP/{trace.groups[i]}", np.nan)))
        rows.append(row)
    return Table(header + (["AP at the end"] if classes else []), rows)


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
