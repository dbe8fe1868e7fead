"""The cost of schemes: time of a training step, and the overhead over the baseline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.lab.report.figure import Figure, chart_text, figure_html, number, rows_axis, stacked
from scalewise.lab.report.markup import Html, Section, Table, absent, join, paragraph
from scalewise.lab.report.subjects import Comparison, ReportRun, Series


def step_times(run: ReportRun) -> list[float]:
    """Time of a training step in each epoch, in milliseconds, including data loading."""
    found = [1000 * epoch.get("step_seconds", math.nan) for epoch in run.history]
    return [time for time in found if not math.isnan(time)]


def _all_times(series: Series) -> list[float]:
    return [time for run in series.runs for time in step_times(run)]


def series_time(series: Series) -> float:
    """Time of a step in milliseconds: the median over all epochs of all runs; NaN without any."""
    times = _all_times(series)
    return float(np.median(times)) if times else math.nan


def overhead(comparison: Comparison, series: Series) -> str:
    """How much longer a step takes than with the baseline, as text.

    Returns:
        For example "+2 %"; "within spread" if the middle halves of the epochs' times overlap;
        "baseline" for the baseline itself; "-" without a baseline or a time.
    """
    base = next((s for s in comparison.series if s.label == comparison.baseline), None)
    if base is series:
        return "baseline"
    if base is None or math.isnan(series_time(base)) or math.isnan(series_time(series)):
        return "-"
    own, other = (_middle_half(s) for s in (series, base))
    if own[0] <= other[1] and other[0] <= own[1]:
        return "within spread"
    extra = 100 * (series_time(series) / series_time(base) - 1)
    return f"{extra:+.0f} %".replace("-", "−")


def _middle_half(series: Series) -> tuple[float, float]:
    low, high = np.quantile(_all_times(series), (0.25, 0.75))
    return float(low), float(high)


def cost_section(comparisons: list[Comparison]) -> Section:
    """Charts and tables of the step times."""
    parts: list[Html] = []
    for comparison in comparisons:
        timed = [series for series in comparison.series if not math.isnan(series_time(series))]
        if not timed:
            parts.append(absent(f"{comparison.title}: no step times were recorded."))
            continue
        parts.append(figure_html(_time_figure(comparison, timed)))
    parts.append(
        paragraph(
            "These are wall times, which include data loading and the effect of other programs on "
            "the machine. An overhead within spread is smaller than the variation between epochs; "
            "a larger one may still come from another program."
        )
    )
    return Section("cost", "Step time and overhead", join(parts))


def _time_figure(comparison: Comparison, timed: list[Series]) -> Figure:
    shown = 3 * max(series_time(series) for series in timed)
    beyond = sum(time > shown for series in timed for time in _all_times(series))
    note = "A pale dot is one epoch of a run, a bar is their median; further left is faster."
    axis: dict[str, Any] = {"title": {"text": "milliseconds per step"}, "rangemode": "tozero"}
    if beyond:  # a machine that slept, or a debugger
        axis["range"] = [0, shown]
        note += f" Not shown: {beyond} slow epoch{'s' * (beyond > 1)}; the table has the slowest."
    header = ["", "ms per step, median", "lowest to highest epoch", "overhead", "s per validation"]
    return Figure(
        f"{comparison.key}-cost",
        f"{comparison.title}: time of a training step",
        note,
        [trace for place, series in enumerate(timed) for trace in _time_traces(series, place)],
        Table(header, [_time_row(comparison, series) for series in timed]),
        {
            "xaxis": axis,
            "yaxis": rows_axis([stacked(series.label) for series in timed]),
            "hovermode": "closest",
        },
        height=110 + 46 * len(timed),
    )


def _time_traces(series: Series, place: int) -> list[dict[str, Any]]:
    """A dot for each epoch, and a bar at their median."""
    color = series.style[0]
    times = _all_times(series)
    common = {"type": "scatter", "mode": "markers", "showlegend": False}
    bar = {"symbol": "line-ns-open", "size": 20, "line": {"width": 3.5, "color": color}}
    return [
        common
        | {
            "x": times,
            "y": [place] * len(times),
            "hovertemplate": f"{chart_text(series.label)}: %{{x:.4g}} ms<extra></extra>",
            "marker": {"color": color, "size": 7, "opacity": 0.35},
        },
        common
        | {
            "x": [series_time(series)],
            "y": [place],
            "hovertemplate": f"{chart_text(series.label)}, median: %{{x:.4g}} ms<extra></extra>",
            "marker": {"color": color} | bar,
        },
    ]


def _time_row(comparison: Comparison, series: Series) -> list[str]:
    times = _all_times(series)
    validation = [e.get("validation_seconds", math.nan) for r in series.runs for e in r.history]
    known = [seconds for seconds in validation if not math.isnan(seconds)]
    return [
        series.label,
        number(series_time(series), 4),
        f"{number(min(times), 4)} to {number(max(times), 4)}",
        overhead(comparison, series),
        number(float(np.median(known))) if known else "-",
    ]
