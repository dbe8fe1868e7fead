"""Charts of the paired differences of a study, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scalewise.lab.report.figure import Figure, chart_text, figure_html, rows_axis, stacked
from scalewise.lab.report.markup import Html, Section, Table, absent, bullets, choice, join
from scalewise.lab.report.subjects import Comparison
from scalewise.lab.report.summary_table import METRICS, differences, metric_values
from scalewise.lab.study.statistics import Difference
from scalewise.lab.study.verdicts import interval_points, points, seeds_text, verdict


def forest_section(comparisons: list[Comparison], metric: str) -> Section:
    """Charts of the paired differences of each study."""
    parts: list[Html] = []
    for comparison in comparisons:
        options = [
            (name, _forest(comparison, name, found, f"{comparison.key}-forest-{i}", bool(i)))
            for i, name in enumerate(dict.fromkeys([metric, *METRICS]))
            if (found := differences(comparison, name))
            and any(math.isfinite(d.difference) for d in found)
        ]
        if options:
            label = f"{comparison.title}, metric:"
            parts.append(choice(f"{comparison.key}-forest", label, options))
        else:
            parts.append(
                absent(
                    f"{comparison.title}: there is nothing to pair. Differences are taken within a "
                    "seed, over the seeds of a study."
                )
            )
    return Section("differences", "Paired differences", join(parts))


def _forest(
    comparison: Comparison, metric: str, found: Sequence[Difference], identity: str, words: bool
) -> Html:
    baseline = str(comparison.baseline)
    color = next(s.style[0] for s in comparison.series if s.label == baseline)
    line = {"color": color, "width": 2, "dash": "dot"}
    header = ["", "difference", "95% (t)", "95% (BCa)", "seeds above 0", "p (Holm)", "seeds needed"]
    figure = Figure(
        identity,
        f"{comparison.title}: {metric} against {baseline}",
        f"Each row is a scheme minus {baseline} at the same seed. The thick bar is Student's 95% "
        "interval, the thin bar that of the BCa bootstrap; dots are single seeds. If a bar crosses "
        "the dotted line at 0, the direction of the difference is not certain.",
        _forest_traces(comparison, metric, found),
        Table(header, [_forest_row(d) for d in found]),
        {
            "xaxis": {
                "title": {"text": f"{metric} − {metric} of {chart_text(baseline)}, points"},
                "zeroline": False,
                "rangemode": "tozero",
            },
            "yaxis": rows_axis([stacked(d.scheme) for d in found]) | {"showgrid": False},
            "shapes": [
                {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": line}
            ],
            "hovermode": "closest",
        },
        height=130 + 80 * len(found),
    )
    notes = [absent(line) for line in _unpaired(found)]
    sentences = [bullets(verdict(d, metric) for d in found)] if words else []
    return join([figure_html(figure), *notes, *sentences])


def _forest_traces(
    comparison: Comparison, metric: str, found: Sequence[Difference]
) -> list[dict[str, Any]]:
    """Traces of both intervals and of the single seeds, for each scheme."""
    values = metric_values(comparison, metric)
    base = values[str(comparison.baseline)]
    colors = {series.label: series.style[0] for series in comparison.series}
    traces: list[dict[str, Any]] = []
    for place, d in enumerate(found):
        color = colors[d.scheme]
        single = [100 * (values[d.scheme][seed] - base[seed]) for seed in d.seeds]
        traces += [
            _interval(d, d.t_interval, place - 0.1, color, 3.5, "Student's t", place == 0),
            _interval(d, d.bca_interval, place + 0.1, color, 1.2, "BCa bootstrap", place == 0),
            {
                "type": "scatter",
                "mode": "markers",
                "name": "one seed",
                "showlegend": place == 0,
                "x": single,
                "y": [place + 0.3] * len(single),
                "text": [f"{chart_text(d.scheme)}, seed {seed}" for seed in d.seeds],
                "hovertemplate": "%{text}: %{x:+.2f}<extra></extra>",
                "marker": {"color": color, "size": 8, "opacity": 0.75},
            },
        ]
    return traces


def _forest_row(d: Difference) -> list[str]:
    return [
        d.scheme,
        points(d.difference),
        interval_points(d.t_interval),
        interval_points(d.bca_interval),
        f"{d.improving} of {len(d.seeds)}",
        "n/a" if d.p_holm is None else f"{d.p_holm:.2g}",
        seeds_text(d.seeds_needed),
    ]


def _interval(
    d: Difference,
    interval: tuple[float, float] | None,
    place: float,
    color: str,
    width: float,
    name: str,
    legend: bool,
) -> dict[str, Any]:
    center = 100 * d.difference
    low, high = (center, center) if interval is None else (100 * interval[0], 100 * interval[1])
    words = f"{low:+.2f} to {high:+.2f}" if interval else "no interval"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"mean and 95%, {name}",
        "showlegend": legend,
        "x": [low, center, high],
        "y": [place] * 3,
        "hovertemplate": f"{chart_text(d.scheme)}, {name}: {center:+.2f}, {words}<extra></extra>",
        "line": {"color": color, "width": width},
        "marker": {
            "color": color,
            "size": [0, 12 if width > 2 else 7, 0],
            "symbol": "diamond",
            "opacity": 1,
            "line": {"width": 0},
        },
    }


def _unpaired(found: Sequence[Difference]) -> list[str]:
    return [
        f"{d.scheme}: seeds without a partner, left out: {', '.join(map(str, d.unpaired))}."
        for d in found
        if d.unpaired
    ]
