"""Writes the tables of a study as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from scalewise.lab.study.comparisons import MetricTable
from scalewise.lab.study.intervals import Interval
from scalewise.lab.study.records import StudyRecords
from scalewise.lab.study.seeds_needed import MOST_SEEDS
from scalewise.lab.study.statistics import Difference

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def differences_csv(tables: Sequence[MetricTable], baseline: str) -> str:
    """Return a row for each detector, metric and scheme; values in 0..1, empty where undefined.

    `seeds`, `mean` and `deviation` are of all seeds of the scheme. The columns from `pairs` on are
    of the seeds that the baseline has too. `seeds_needed` above 1000 is ">1000".
    """
    rows = []
    for table in tables:
        compared = {difference.scheme: difference for difference in table.differences}
        for own in table.summaries:
            row = [table.detector, own.scheme, table.metric, words(own.seeds), own.mean]
            rows.append([*row, own.deviation, baseline, *_fields(compared.get(own.scheme))])
    head = "detector scheme metric seeds mean deviation baseline pairs unpaired difference "
    head += "difference_deviation t_low t_high bca_low bca_high improving p p_holm seeds_needed"
    return _csv([head.split(), *rows])


def _fields(found: Difference | None) -> list[object]:
    if found is None:
        return [None] * 12
    absent = Interval(math.nan, math.nan)
    needed = found.seeds_needed
    return [
        words(found.seeds),
        words(found.unpaired),
        found.difference,
        found.difference_deviation,
        *(found.t_interval or absent),
        *(found.bca_interval or absent),
        found.improving,
        found.p,
        found.p_holm,
        f">{MOST_SEEDS}" if needed is not None and needed > MOST_SEEDS else needed,
    ]


def runs_csv(study: StudyRecords) -> str:
    """Return a row for each finished run with all its metrics; empty where undefined."""
    names = list(dict.fromkeys(name for record in study.records for name in record.metrics))
    rows: list[list[object]] = [
        [run.detector, run.scheme, run.seed, *(run.metrics.get(name) for name in names)]
        for run in study.records
    ]
    return _csv([["detector", "scheme", "seed", *names], *rows])


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(
            [
                "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else safe(cell)
                for cell in row
            ]
        )
    return text.getvalue()


def safe(cell: object) -> object:
    """Put a quote before a text that a spreadsheet would take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def words(seeds: Sequence[int]) -> str:
    """Seeds as the text of one cell."""
    return " ".join(map(str, seeds))
