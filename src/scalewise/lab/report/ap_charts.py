"""Charts of average precision by object size and by class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalewise.lab.report.figure import Figure, chart_text, figure_html, number, rows_axis, stacked
from scalewise.lab.report.markup import Html, Section, Table, absent, join
from scalewise.lab.report.subjects import Comparison, Series
from scalewise.lab.training.kinds import percent

SIZES = {
    "AP": "all sizes",
    "AP_small": "small (below 32² pixels)",
    "AP_medium": "medium (32² to 96²)",
    "AP_large": "large (above 96²)",
}
ROW = 26  # height of a row of dots in pixels


def sizes_section(comparisons: list[Comparison]) -> Section:
    """Charts of AP by object size and by class."""
    parts: list[Html] = []
    for comparison in comparisons:
        known = [m for m in SIZES if any(series.values(m) for series in comparison.series)]
        classes = sorted(
            {
                name
                for run in comparison.runs
                for name, value in run.last.items()
                if name.startswith("AP/") and not math.isnan(value)
            },
            key=lambda name: -_reference(comparison, name),
        )
        if not known:
            parts.append(absent(f"{comparison.title}: no epoch was validated, so there is no AP."))
            continue
        parts.append(
            figure_html(
                _dots(
                    comparison,
                    f"{comparison.key}-sizes",
                    f"{comparison.title}: AP by size of the objects",
                    {SIZES[name]: name for name in known},
                )
            )
        )
        empty = [SIZES[name] for name in SIZES if name not in known]
        if empty:
            parts.append(absent(f"No object to measure AP on: {', '.join(empty)}."))
        if classes:
            parts.append(
                figure_html(
                    _dots(
                        comparison,
                        f"{comparison.key}-classes",
                        f"{comparison.title}: AP by class",
                        {name[3:]: name for name in classes},
                    )
                )
            )
        unseen = sorted(
            {n[3:] for run in comparison.runs for n in run.last if n.startswith("AP/")}
            - {name[3:] for name in classes}
        )
        if unseen:
            named = ", ".join(unseen)
            parts.append(absent(f"Classes without an object in the validation split: {named}."))
    return Section("sizes", "AP by size and class", join(parts))


def _reference(comparison: Comparison, metric: str) -> float:
    """The value that rows are sorted by: mean of the baseline, or else of the first series."""
    first = next(
        (s for s in comparison.series if s.label == comparison.baseline), comparison.series[0]
    )
    values = first.values(metric)
    return float(np.mean(values)) if values else 0.0


def _dots(comparison: Comparison, identity: str, title: str, rows: dict[str, str]) -> Figure:
    """A chart with a row for each metric and a dot for each series."""
    count = len(comparison.series)
    offsets = np.linspace(-0.28, 0.28, count) if count > 1 else np.zeros(1)
    several = max(len(series.runs) for series in comparison.series) > 1
    reading = (
        "AP in points (percent) at the last epoch; further right is better; "
        + (
            "dots are means, bars one standard deviation over seeds. "
            if several
            else "each dot is one run, so the chart cannot show how much seeds differ. "
        )
        + (f"{comparison.baseline} is the grey tick." if comparison.baseline else "")
    ).strip()
    values = [
        [row, *(mean_text(series, metric) for series in comparison.series)]
        for row, metric in rows.items()
    ]
    return Figure(
        identity,
        title,
        reading,
        [
            _dots_of_series(series, rows, float(offset))
            for series, offset in zip(comparison.series, offsets, strict=True)
        ],
        Table(["", *(series.label for series in comparison.series)], values),
        {
            "xaxis": {"title": {"text": "AP, points"}, "rangemode": "tozero", "side": "bottom"},
            "yaxis": rows_axis([chart_text(row) for row in rows]),
            "hovermode": "closest",
        },
        height=110 + max(ROW, 7 * count + 8) * len(rows),
    )


def _dots_of_series(series: Series, rows: dict[str, str], offset: float) -> dict[str, Any]:
    color, symbol, _ = series.style
    found = [series.values(metric) for metric in rows.values()]
    means = [100 * float(np.mean(v)) if v else math.nan for v in found]
    spreads = [100 * _deviation(v) for v in found]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": stacked(series.label),
        "x": means,
        "y": [place + offset for place in range(len(rows))],
        "customdata": [
            f"{chart_text(row)}: {number(mean)}"
            + (f" ± {number(spread, 2)}" if len(values) > 1 else "")
            for row, mean, spread, values in zip(rows, means, spreads, found, strict=True)
        ],
        "hovertemplate": "%{customdata}",
        "marker": {
            "color": color,
            "symbol": symbol.replace("line-ew-open", "line-ns-open"),
            "size": 9,
            "line": {"width": 2.5 if symbol.endswith("open") else 0, "color": color},
        },
        "error_x": {
            "type": "data",
            "array": spreads,
            "visible": any(s > 0 for s in spreads),
            "thickness": 1.2,
            "width": 2,
            "color": color,
        },
    }


def mean_text(series: Series, metric: str) -> str:
    """The mean of a series in AP points, with its standard deviation where there are several."""
    values = series.values(metric)
    if not values:
        return "-"
    mean = percent(float(np.mean(values)))
    return mean if len(values) < 2 else f"{mean} ± {percent(_deviation(values))}"


def _deviation(values: list[float]) -> float:
    """Standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
