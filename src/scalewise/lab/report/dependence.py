"""Whether the groups are equally important and independent: shares and correlations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.lab.report.figure import Figure, chart_text, figure_html
from scalewise.lab.report.group_charts import selection_note, shown_runs
from scalewise.lab.report.group_course import shown_note
from scalewise.lab.report.markup import (
    Html,
    Section,
    Table,
    absent,
    choice,
    heading,
    join,
    side_by_side,
)
from scalewise.lab.report.subjects import Comparison, ReportRun, common_kind
from scalewise.lab.report.trace_series import (
    Floats,
    GroupTrace,
    read_gradients,
    read_groups,
    smoothed,
)
from scalewise.lab.training.kinds import Kind
from scalewise.lab.training.trace_picture import MOST, REST_COLOR, group_color

LEAST_ROWS = 10
DIVERGING = [[0, "#d55e00"], [0.5, "#f5f5f5"], [1, "#0072b2"]]


def dependence_section(comparisons: list[Comparison]) -> Section:
    """Each group's shares, and the correlations between groups, of one run at a time."""
    parts: list[Html] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.title))
        parts.append(selection_note(comparison))
        options = [
            (run.label, _of_run(run, f"{comparison.key}-dependence-{i}"))
            for i, run in enumerate(shown_runs(comparison))
        ]
        parts.append(choice(f"{comparison.key}-dependence", "Run:", options))
    many = common_kind(comparisons).many
    return Section("dependence", f"Are the {many} equally important, and independent?", join(parts))


def _of_run(run: ReportRun, identity: str) -> Html:
    trace = read_groups(run.folder)
    if trace is None:
        return absent(f"{run.label} has no trace.parquet, or an empty one: nothing to compare.")
    gradients = read_gradients(run.folder, trace.groups)
    grams = None if gradients is None else gradients[1]
    notes = [*_silent(trace)]
    many = run.kind.many
    matrices = [
        _matrix(run, trace, f"{identity}-{name}", title, reading, matrix)
        for name, title, reading, matrix in _correlations(trace, run.kind)
    ]
    if grams is None:
        notes.append(
            absent(
                f"{run.label} has no gradients.parquet, so shares of the gradient norm and the "
                f"angles between the gradients of the {many} are not shown."
            )
        )
    else:
        matrices.append(
            _matrix(
                run,
                trace,
                f"{identity}-cosine",
                f"cosine between the {many}' gradients",
                f"1: two {many} pull the weights the same way; below 0: against each other. "
                f"Mean of {len(grams)} measurements over the run.",
                mean_cosine(grams)[np.ix_(trace.shown, trace.shown)],
            )
        )
    return join(
        [
            figure_html(_share_figure(run, trace, grams, f"{identity}-share")),
            *notes,
            side_by_side(matrices),
        ]
    )


def _silent(trace: GroupTrace) -> list[Html]:
    """What the positives do not tell: they were not recorded, or some group has none."""
    if trace.positives is None:
        return [absent("The trace does not hold positives, so their shares are not shown.")]
    silent = [
        group
        for group, count in zip(trace.groups, trace.positives.sum(0), strict=True)
        if count == 0
    ]
    if not silent:
        return []
    named = ", ".join(silent[:MOST])
    if len(silent) > MOST:
        named += f" and {len(silent) - MOST} more"
    effect = (
        "there is nothing there to weigh"
        if trace.per_positive
        else "the loss there is that of telling background apart, and nothing else"
    )
    return [absent(f"No object was assigned to {named} in any recorded step: {effect}.")]


def _correlations(trace: GroupTrace, kind: Kind) -> list[tuple[str, str, str, Floats]]:
    """Identity, title, reading and matrix of the losses' correlations, with and without trend."""
    values = trace.compared[:, trace.shown]
    many = kind.many
    losses, steps = "losses", "All steps"
    relate = correlation
    if trace.per_positive:  # a rare group has no value at most steps
        losses, steps = "losses per positive", "All steps at which both have positives"
        relate = pairwise_correlation
    return [
        (
            "raw",
            f"correlation of the {losses}",
            f"1 (blue): the losses of two {many} rise and fall together; 0: independent; −1 (red): "
            f"one rises as the other falls. {steps}, so the common fall over the run counts.",
            relate(values),
        ),
        (
            "detrended",
            "the same without the trend",
            f"Correlation of what is left when each one's moving average over a fiftieth of the "
            f"run is taken away: whether the same batch is hard for both {many}.",
            relate(detrended(values)),
        ),
    ]


def group_shares(trace: GroupTrace, grams: Floats | None) -> dict[str, Floats]:
    """Each group's share of what the whole run summed up, float64 [n] by quantity; each sums to 1.

    Args:
        trace: The run's trace.
        grams: float64 [m, n, n], inner products of the groups' gradients; None when not measured.
    """
    losses = np.where(np.isfinite(trace.losses), trace.losses, 0.0)
    sums = {"loss": losses.sum(0), "loss × weight": (losses * trace.weights).sum(0)}
    if trace.positives is not None:
        sums["positives"] = trace.positives.sum(0)
    if grams is not None:
        norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))  # [m, n]
        sums["gradient norm"] = np.where(np.isfinite(norms), norms, 0.0).sum(0)
    return {name: total / total.sum() for name, total in sums.items() if total.sum() > 0}


def correlation(values: Floats) -> Floats:
    """Pearson's correlation between columns over the rows where all are finite, float64 [n, n].

    NaN where a column does not vary.
    """
    rows = values[np.isfinite(values).all(1)]
    count = values.shape[1]
    if len(rows) < 3:
        return np.full((count, count), np.nan)
    off = rows - rows.mean(0)
    norm = np.sqrt((off**2).sum(0))
    norm = np.where(norm > 1e-12 * np.abs(rows).max(0), norm, np.nan)
    matrix: Floats = np.clip((off.T @ off) / np.outer(norm, norm), -1, 1)
    return matrix


def pairwise_correlation(values: Floats) -> Floats:
    """Correlation of every two columns over the rows where both are finite, float64 [n, n].

    NaN for two with fewer than `LEAST_ROWS` rows, of which a correlation says nothing.
    """
    count = values.shape[1]
    matrix = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(i, count):
            pair = values[:, [i, j]]
            if np.isfinite(pair).all(1).sum() >= LEAST_ROWS:
                matrix[i, j] = matrix[j, i] = correlation(pair)[0, 1]
    return matrix


def detrended(values: Floats) -> Floats:
    """Columns less their moving average over a fiftieth of the rows (at least 5), same shape."""
    return values - smoothed(values, max(5, len(values) // 50))


def mean_cosine(grams: Floats) -> Floats:
    """Mean cosine between the groups' gradients, float64 [n, n]; NaN without a gradient."""
    norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))  # [m, n]
    product = norms[:, :, None] * norms[:, None, :]
    sound = np.isfinite(product) & (product > 0)
    cosine = np.divide(grams, product, out=np.zeros_like(grams), where=sound)
    count = sound.sum(0)
    return np.where(count > 0, cosine.sum(0) / np.maximum(count, 1), np.nan)


def _share_figure(run: ReportRun, trace: GroupTrace, grams: Floats | None, identity: str) -> Figure:
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
        f"How much of the {loss}, before and after weighting, and of the rest stems from each "
        f"{run.kind.one}; equally important {run.kind.many} would have {even:.3g} percent each."
        + _background_share(trace)
        + shown_note(run, trace),
        traces,
        Table(["share of", *names], rows),
        layout,
        height=110 + 55 * len(shares) + (80 if len(names) > 6 else 0),
    )


def _background_share(trace: GroupTrace) -> str:
    """A sentence on the loss that is in no group; empty where there is none."""
    if trace.background is None:
        return ""
    background = float(np.nansum(trace.background))
    whole = background + float(np.nansum(trace.losses))
    share = f"{100 * background / whole:.0f}" if whole > 0 else "-"
    return f" The background, which no weight touches, has {share} percent of the whole loss."


def _matrix(
    run: ReportRun, trace: GroupTrace, identity: str, title: str, reading: str, matrix: Floats
) -> Html:
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
    """Two decimals with a true minus; "-" where undefined."""
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
