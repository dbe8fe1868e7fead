"""Writes the tables of a study: Markdown for reading, CSV for computing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from scalewise.files import write_text
from scalewise.lab.study.comparisons import METRICS, MetricTable, class_metrics, study_tables
from scalewise.lab.study.csv_tables import differences_csv, runs_csv, words
from scalewise.lab.study.other_images import CAUTION, ImageBootstrap
from scalewise.lab.study.records import StudyRecords
from scalewise.lab.study.statistics import Difference
from scalewise.lab.study.verdicts import advice, interval_points, points, seeds_text, verdict

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
        folder: output folder; it is made if it does not exist.
        metrics: metrics in the Markdown; its main table compares the first one. The CSV also has
            the AP of every class.
        images: intervals over evaluation images, added to the Markdown; None leaves them out.

    Returns:
        The written files.

    Raises:
        UserError: no run is finished.
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
    """Return the tables as Markdown: a section for each detector, and notes at the end.

    Args:
        study: the study that the tables were made from.
        tables: tables from `study_tables`.
        images: intervals over evaluation images to add; None leaves them out.
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
                key = (table.detector, found.scheme, words(found.unpaired))
                metrics.setdefault(key, []).append(table.metric)
    return [
        f"{detector} {scheme}: without a value on both sides of the comparison, and left out of "
        f"it: seed {seeds} ({', '.join(names)})"
        for (detector, scheme, seeds), names in metrics.items()
    ]


def markdown_cell(words: str) -> str:
    """Turn a text into a cell of a Markdown table: one line, with `|` and `<` escaped."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _plain(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.2f}"
