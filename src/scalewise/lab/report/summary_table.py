"""The summary of a report: AP, its uncertainty and its cost, with a sentence on each scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scalewise.lab.report.ap_charts import mean_text
from scalewise.lab.report.cost import overhead, series_time
from scalewise.lab.report.figure import number
from scalewise.lab.report.markup import (
    Html,
    Section,
    Table,
    absent,
    bullets,
    heading,
    join,
    table,
)
from scalewise.lab.report.subjects import Comparison
from scalewise.lab.study.statistics import Difference, paired
from scalewise.lab.study.verdicts import advice, interval_points, points, verdict

METRICS = ("AP", "AP_small", "AP_medium", "AP_large", "AP50", "AP75")  # most important first
SHORT = {"AP_small": "small", "AP_medium": "medium", "AP_large": "large"}
CAPTION = "AP points (percent) at the last epoch"
SPREAD = "; ± one standard deviation over seeds"


def differences(comparison: Comparison, metric: str) -> list[Difference]:
    """The differences of a study's schemes to its baseline; empty for single runs."""
    if comparison.baseline is None or comparison.study is None:
        return []
    values = metric_values(comparison, metric)
    return paired(values, comparison.baseline) if comparison.baseline in values else []


def metric_values(comparison: Comparison, metric: str) -> dict[str, dict[int, float]]:
    """The metric at the last epoch, by series and seed."""
    return {
        series.label: {run.config.seed: run.last.get(metric, math.nan) for run in series.runs}
        for series in comparison.series
    }


def summary_section(comparisons: list[Comparison], metric: str) -> Section:
    """A table for each comparison, and a sentence on each scheme."""
    parts: list[Html] = []
    for comparison in comparisons:
        found = differences(comparison, metric)
        parts.append(heading(comparison.title))
        caption = CAPTION + (SPREAD if comparison.study else "")
        parts.append(table(summary_table(comparison, metric, found), caption))
        if found:
            parts.append(bullets(verdict(difference, metric) for difference in found))
            counts = sorted({len(difference.seeds) for difference in found})
            parts.append(bullets(map(advice, counts)))
        elif comparison.study is not None:
            parts.append(
                absent(
                    f"There is no difference to show: with this detector, either the baseline "
                    f"{comparison.baseline} or every other scheme has no finished run."
                )
            )
        elif len(comparison.runs) > 1:
            parts.append(
                absent(
                    "These are single runs: their differences may come from the seed or from other "
                    "options. Only a study (scalewise compare) can tell how certain they are."
                )
            )
    return Section("summary", "How much, how sure, at what cost", join(parts))


def summary_table(comparison: Comparison, metric: str, found: Sequence[Difference]) -> Table:
    """A table with a row for each series."""
    by_scheme: Mapping[str, Difference] = {d.scheme: d for d in found}
    others = [name for name in METRICS if name != metric]
    header = ["", "seeds" if comparison.study else "seed", metric]
    if found:
        header += [f"{metric} − {comparison.baseline}", "95% interval (t)"]
    header += [*(SHORT.get(name, name) for name in others), "ms per step", "overhead"]
    rows = []
    for series in comparison.series:
        runs = series.runs
        seeds = str(len(runs)) if comparison.study else str(runs[0].config.seed)
        row = [series.label, seeds, mean_text(series, metric)]
        if found:
            difference = by_scheme.get(series.label)
            row += (
                [points(difference.difference), interval_points(difference.t_interval)]
                if difference
                else ["baseline", ""]
            )
        row += [mean_text(series, name) for name in others]
        row += [number(series_time(series), 4), overhead(comparison, series)]
        rows.append(row)
    return Table(header, rows)
