"""Whether the levels are equally important and independent: shares and correlations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.report.figure import Figure, figure_html, plain
from scalewise.report.levels import selection_note, shown_runs
from scalewise.report.markup import (
    Html,
    Section,
    Table,
    absent,
    choice,
    heading,
    join,
    side_by_side,
)
from scalewise.report.subjects import Comparison, ReportRun
from scalewise.report.trace import Floats, LevelTrace, read_gradients, read_levels
from scalewise.training.picture import level_color

DIVERGING = [[0, "#d55e00"], [0.5, "#f5f5f5"], [1, "#0072b2"]]


def dependence_section(comparisons: list[Comparison]) -> Section:
    """Each level's shares, and the correlations between levels, of one run at a time."""
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
    return Section("dependence", "Are the levels equally important, and independent?", join(parts))


def _of_run(run: ReportRun, identity: str) -> Html:
    trace = read_levels(run.folder)
    if trace is None:
        return absent(f"{run.label} has no trace.parquet, or an empty one: nothing to compare.")
    gradients = read_gradients(run.folder, trace.levels)
    grams = None if gradients is None else gradients[1]
    notes: list[Html] = []
    if trace.positives is None:
        notes.append(absent("The trace does not hold positives, so their shares are not shown."))
    elif silent := [
        level
        for level, count in zip(trace.levels, trace.positives.sum(0), strict=True)
        if count == 0
    ]:
        notes.append(
            absent(
                f"No object was assigned to {', '.join(silent)} in any recorded step: the loss "
                "there is that of telling background apart, and nothing else."
            )
        )
    matrices = [
        figure_html(
            _matrix_figure(
                f"{identity}-raw",
                f"{run.label}: correlation of the losses",
                "1 (blue): two levels' losses rise and fall together; 0: independent; −1 (red): "
                "one rises as the other falls. All steps, so the common fall over the run counts.",
                trace.levels,
                correlation(trace.losses),
            )
        ),
        figure_html(
            _matrix_figure(
                f"{identity}-detrended",
                f"{run.label}: the same without the trend",
                "Correlation of what is left when each level's moving average over a fiftieth of "
                "the run is taken away: whether the same batch is hard for both levels.",
                trace.levels,
                correlation(detrended(trace.losses)),
            )
        ),
    ]
    if grams is None:
        notes.append(
            absent(
                f"{run.label} has no gradients.parquet, so shares of the gradient norm and the "
                "angles between the levels' gradients are not shown."
            )
        )
    else:
        matrices.append(
            figure_html(
                _matrix_figure(
                    f"{identity}-cosine",
                    f"{run.label}: cosine between the levels' gradients",
                    f"1: two levels pull the weights the same way; below 0: against each other. "
                    f"Mean of {len(grams)} measurements over the run.",
                    trace.levels,
                    mean_cosine(grams),
                )
            )
        )
    return join(
        [
            figure_html(_share_figure(run, trace, grams, f"{identity}-share")),
            *notes,
            side_by_side(matrices),
        ]
    )


def level_shares(trace: LevelTrace, grams: Floats | None) -> dict[str, Floats]:
    """Each level's share of what the whole run summed up, float64 [n] by quantity; each sums to 1.

    Args:
        trace: The run's trace.
        grams: float64 [m, n, n], inner products of the levels' gradients; None when not measured.
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


def detrended(values: Floats) -> Floats:
    """Columns less their moving average over a fiftieth of the rows (at least 5), same shape."""
    width = min(len(values), max(5, len(values) // 50))
    kernel = np.ones(width)
    weight = np.convolve(np.ones(len(values)), kernel, "same")
    trend = np.stack([np.convolve(column, kernel, "same") / weight for column in values.T], axis=1)
    return values - trend


def mean_cosine(grams: Floats) -> Floats:
    """Mean cosine between the levels' gradients, float64 [n, n]; NaN without a gradient."""
    norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))  # [m, n]
    product = norms[:, :, None] * norms[:, None, :]
    sound = np.isfinite(product) & (product > 0)
    cosine = np.divide(grams, product, out=np.zeros_like(grams), where=sound)
    count = sound.sum(0)
    return np.where(count > 0, cosine.sum(0) / np.maximum(count, 1), np.nan)


def _share_figure(run: ReportRun, trace: LevelTrace, grams: Floats | None, identity: str) -> Figure:
    shares = level_shares(trace, grams)
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(level),
            "y": list(shares),
            "x": [100 * share[i] for share in shares.values()],
            "text": [f"{100 * s[i]:.0f}" if s[i] >= 0.04 else "" for s in shares.values()],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "hovertemplate": f"{plain(level)}: %{{x:.3g}} %<extra></extra>",
            "marker": {"color": level_color(i)},
        }
        for i, level in enumerate(trace.levels)
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
    rows = [[name, *(f"{100 * value:.2f} %" for value in share)] for name, share in shares.items()]
    even = 100 / len(trace.levels)
    return Figure(
        identity,
        f"{run.label}: each level's share",
        f"How much of the run's loss, before and after weighting, and of the rest stems from each "
        f"level; equally important levels would have {even:.0f} percent each.",
        traces,
        Table(["share of", *trace.levels], rows),
        layout,
        height=110 + 55 * len(shares),
    )


def _matrix_figure(
    identity: str, title: str, reading: str, levels: list[str], matrix: Floats
) -> Figure:
    cells = [[_two(float(value)) for value in row] for row in matrix]
    names = [plain(level) for level in levels]
    trace = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": matrix,
        "text": cells,
        "texttemplate": "%{text}",
        "hovertemplate": "%{y} and %{x}: %{z:.3f}<extra></extra>",
        "zmin": -1,
        "zmax": 1,
        "colorscale": DIVERGING,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    layout = {
        "xaxis": {"showgrid": False, "fixedrange": True},
        "yaxis": {"showgrid": False, "autorange": "reversed", "fixedrange": True},
        "margin": {"l": 28, "r": 8, "t": 8, "b": 28},
    }
    rows = [[level, *row] for level, row in zip(levels, cells, strict=True)]
    return Figure(identity, title, reading, [trace], Table(["", *levels], rows), layout, height=320)


def _two(value: float) -> str:
    """Two decimals with a true minus; "-" where undefined."""
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
