"""The tables of a study: Markdown to read, CSV to compute with."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from scalewise.files import write_text
from scalewise.lab.study.comparisons import METRICS, MetricTable, class_metrics, study_tables
from scalewise.lab.study.other_images import CAUTION, ImageBootstrap
from scalewise.lab.study.records import StudyRecords
from scalewise.lab.study.statistics import MOST_SEEDS, Difference, Interval
from scalewise.lab.study.verdicts import advice, interval_points, points, seeds_text, verdict

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")

_NOTES = (
    "Values are points (hundredths) of the last epoch's metric, mean ± sample standard deviation "
    "over seeds. A difference is scheme minus baseline, paired by seed, with Student's 95% "
    "interval in brackets and the BCa bootstrap's in parentheses.",
    "p is of the two-sided paired t test, corrected after Holm for the schemes of one detector and "
    "one metric, not for the number of metrics or detectors.",
    "Seeds needed: the fewest for 80% power at the 5% level if the observed difference and spread "
    "were the true ones, which from few seeds is an order of magnitude.",
)


def write_tables(
    study: StudyRecords,
    folder: Path,
    metrics: Sequence[str] = METRICS,
    images: ImageBootstrap | None = None,
) -> list[Path]:
    """Write `tables.md`, `differences.csv` and `runs.csv`.

    Args:
        study: a loaded study.
        folder: made if absent.
        metrics: those in the Markdown; its main table compares the first. The CSV has those of
            every class as well.
        images: adds the intervals over evaluation images to the Markdown.

    Returns:
        The files.

    Raises:
        UserError: when no run is finished.
        UsageError: for a metric that no run has.
    """
    tables = study_tables(study, list(dict.fromkeys([*metrics, *class_metrics(study)])))
    shown = [table for table in tables if table.metric in metrics]
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "tables.md": markdown(study, shown, images),
        "differences.csv": differences_csv(tables, study.plan.baseline),
        "runs.csv": runs_csv(study),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def markdown(
    study: StudyRecords, tables: Sequence[MetricTable], images: ImageBootstrap | None = None
) -> str:
    """Return the tables as Markdown, a section a detector, the notes last.

    Args:
        study: what they were made of.
        tables: from `study_tables`.
        images: adds the intervals over evaluation images.
    """
    blocks = []
    for detector in study.plan.detectors:
        own = [table for table in tables if table.detector == detector]
        blocks += [f"## {detector}", _main_table(own, study.plan.baseline)]
        blocks.append(_bullets(verdict(d, own[0].metric) for d in own[0].differences))
        if len(own) > 1 and own[0].differences:
            blocks += ["The other metrics:", _other_metrics(own[1:])]
        if images is not None:
            blocks += _over_images(images, detector)
    pairs = sorted({len(d.seeds) for table in tables for d in table.differences if d.seeds})
    lines = [*map(advice, pairs), *_NOTES, *_left_out(tables)]
    if images is not None:
        lines += [CAUTION, *(f"Not resampled: {line}" for line in images.left_out)]
    lines += [f"Missing: {line}" for line in study.missing]
    return "\n\n".join(filter(None, [*blocks, "## Notes", _bullets(lines)])) + "\n"


def _main_table(tables: Sequence[MetricTable], baseline: str) -> str:
    first, *others = tables
    compared = {difference.scheme: difference for difference in first.differences}
    rows = []
    for place, summary in enumerate(first.summaries):
        means = [_plain(table.summaries[place].mean) for table in others]
        found = compared.get(summary.scheme)
        cells = ["baseline", "", "", ""] if found is None else _difference_cells(found)
        spread = f"{_plain(summary.mean)} ± {_plain(summary.deviation)}"
        rows.append([summary.scheme, str(len(summary.seeds)), spread, *means, *cells])
    head = ["scheme", "seeds", first.metric, *(table.metric for table in others)]
    head += [f"{first.metric} − {baseline}", "improving", "p Holm", "seeds needed"]
    return _table(head, rows)


def _other_metrics(tables: Sequence[MetricTable]) -> str:
    rows = [
        [table.metric, found.scheme, *_difference_cells(found)]
        for table in tables
        for found in table.differences
    ]
    head = ["metric", "scheme", "difference", "improving", "p Holm", "seeds needed"]
    return _table(head, rows)


def _difference_cells(found: Difference) -> list[str]:
    intervals = f"[{interval_points(found.t_interval)}] ({interval_points(found.bca_interval)})"
    return [
        f"{points(found.difference)} {intervals}",
        f"{found.improving}/{len(found.seeds)}",
        _p_text(found.p_holm),
        seeds_text(found.seeds_needed),
    ]


def _p_text(p: float | None) -> str:
    if p is None:
        return "n/a"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _over_images(images: ImageBootstrap, detector: str) -> list[str]:
    rows = [
        [
            found.scheme,
            found.metric,
            f"{points(found.difference)} [{interval_points(found.interval)}]",
            str(len(found.seeds)),
            str(found.images),
            str(found.resamples),
        ]
        for found in images.differences
        if found.detector == detector
    ]
    head = ["scheme", "metric", "difference", "seeds", "images", "resamples"]
    return ["Over evaluation images, the trained models fixed:", _table(head, rows)] if rows else []


def _left_out(tables: Sequence[MetricTable]) -> list[str]:
    metrics: dict[tuple[str, str, str], list[str]] = {}
    for table in tables:
        for found in table.differences:
            if found.unpaired:
                key = (table.detector, found.scheme, _words(found.unpaired))
                metrics.setdefault(key, []).append(table.metric)
    return [
        f"{detector} {scheme}: without a value on both sides of the comparison, and left out of "
        f"it: seed {seeds} ({', '.join(names)})"
        for (detector, scheme, seeds), names in metrics.items()
    ]


def differences_csv(tables: Sequence[MetricTable], baseline: str) -> str:
    """Return one row per detector, metric and scheme, in 0..1; empty where undefined.

    `seeds`, `mean` and `deviation` are of the scheme alone; from `pairs` on the row is over the
    seeds that the baseline has too. `seeds_needed` is capped.
    """
    rows = []
    for table in tables:
        compared = {difference.scheme: difference for difference in table.differences}
        for own in table.summaries:
            row = [table.detector, own.scheme, table.metric, _words(own.seeds), own.mean]
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
        _words(found.seeds),
        _words(found.unpaired),
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
    """Return one row a finished run with all its metrics; empty where undefined."""
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
    """A cell of a CSV file that no spreadsheet takes for a formula: a quote is put before those."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def markdown_cell(words: str) -> str:
    """A text as a cell of a Markdown table: in one line, without markup of its own."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _plain(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.2f}"


def _words(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))
