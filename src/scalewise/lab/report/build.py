"""Builds a report: all sections on one page, and the numbers as Markdown and CSV beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from scalewise.errors import UsageError
from scalewise.files import write_text
from scalewise.lab.report.ap_charts import sizes_section
from scalewise.lab.report.cost import cost_section
from scalewise.lab.report.dependence import dependence_section
from scalewise.lab.report.forest import forest_section
from scalewise.lab.report.group_charts import groups_section
from scalewise.lab.report.image_intervals import images_section, over_images
from scalewise.lab.report.learning import learning_section
from scalewise.lab.report.markup import Table, paragraph
from scalewise.lab.report.origin import origin_section
from scalewise.lab.report.page import page_html
from scalewise.lab.report.reading_subjects import load_subjects
from scalewise.lab.report.side_by_side import pictures_section
from scalewise.lab.report.subjects import Comparison, common_kind
from scalewise.lab.report.summary_table import CAPTION, METRICS, summary_section, summary_table
from scalewise.lab.study.comparisons import class_metrics, study_tables
from scalewise.lab.study.csv_tables import differences_csv, safe
from scalewise.lab.study.other_images import ImageBootstrap
from scalewise.lab.study.records import StudyRecords
from scalewise.lab.study.study_tables import markdown, markdown_cell


def write_report(
    paths: Sequence[Path], out: Path, metric: str = "AP", baseline: str | None = None
) -> list[Path]:
    """Write a report on runs and studies.

    Args:
        paths: Run folders and study folders.
        out: The HTML file; if it or a file beside it exists, a number is added to the names.
        metric: The metric to sum up and compare, a name in `metrics.json`.
        baseline: Scheme that others are compared with; None takes the baseline of each study.

    Returns:
        The written files: HTML, Markdown, CSV of the runs, CSV of each study's differences.

    Raises:
        UserError: a folder is neither a run nor a study, or no run has the metric.
    """
    comparisons = load_subjects(paths, baseline)
    known = {name for c in comparisons for run in c.runs for name in run.last}
    if known and metric not in known:
        shown = ", ".join(name for name in METRICS if name in known)
        raise UsageError(f"--metric {metric}: the runs have {shown}, and AP/<class>")
    files = _contents(comparisons, metric, _title(paths))
    return _write(files, out)


def report_html(
    comparisons: list[Comparison], metric: str, title: str, images: Mapping[int, ImageBootstrap]
) -> str:
    """Build the page; equal records give an equal page. `images` comes from `over_images`."""
    sections = [
        summary_section(comparisons, metric),
        forest_section(comparisons, metric),
        images_section(comparisons, images),
        sizes_section(comparisons),
        learning_section(comparisons, metric),
        groups_section(comparisons),
        dependence_section(comparisons),
        cost_section(comparisons),
        pictures_section(comparisons),
        origin_section(comparisons),
    ]
    return page_html(title, paragraph(_lead(comparisons)), sections)


def report_markdown(
    comparisons: Sequence[Comparison], metric: str, images: Mapping[int, ImageBootstrap]
) -> str:
    """The tables as Markdown: with statistics for a study, without them for single runs."""
    parts = []
    for study in _studies(comparisons):
        known = {name for record in study.records for name in record.metrics}
        metrics = [name for name in dict.fromkeys([metric, *METRICS]) if name in known]
        tables = markdown(study, study_tables(study, metrics), images[id(study)])
        parts += [f"# {_name(study, comparisons)}", tables]
    for comparison in comparisons:
        if comparison.study is None:
            table = _markdown(summary_table(comparison, metric, []))
            parts += [f"# {comparison.title}", f"{CAPTION}.", table]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def report_csv(comparisons: Sequence[Comparison]) -> str:
    """CSV with a row for each metric of each run, at the last epoch; AP in 0..1."""
    held = io.StringIO()
    rows = csv.writer(held, lineterminator="\n")
    rows.writerow(["comparison", "run", "detector", "scheme", "seed", "metric", "value"])
    for comparison in comparisons:
        for run in comparison.runs:
            config = run.config
            start = [comparison.title, run.label, config.detector, config.scheme, config.seed]
            rows.writerows(
                [*map(safe, start), safe(name), value] for name, value in run.last.items()
            )
    return held.getvalue()


def _title(paths: Sequence[Path]) -> str:
    names = list(dict.fromkeys(path.resolve().name for path in paths))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"Report on {', '.join(names[:4])}{more}"


def _lead(comparisons: Sequence[Comparison]) -> str:
    runs = [run for comparison in comparisons for run in comparison.runs]
    data = ", ".join(dict.fromkeys(run.config.data for run in runs))
    epochs = sorted({int(run.history[-1]["epoch"]) if run.history else 0 for run in runs})
    span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    return (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} on {data}, {span} epochs, with a "
        f"loss weight for each {common_kind(comparisons).one}, scored on the validation split "
        "after the last epoch. All data are in this file; it loads nothing from the network."
    )


def _markdown(content: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown_cell, cells)) + " |"

    rule = ["---", *("---:" for _ in content.header[1:])]
    return "\n".join([line(content.header), line(rule), *(line(row) for row in content.rows)])


def _studies(comparisons: Sequence[Comparison]) -> list[StudyRecords]:
    """The studies of all comparisons, each one once."""
    found = {id(c.study): c.study for c in comparisons if c.study is not None}
    return list(found.values())


def _name(study: StudyRecords, comparisons: Sequence[Comparison]) -> str:
    folders = (c.folder for c in comparisons if c.study is study and c.folder is not None)
    return next(folder.resolve().name for folder in folders)


def _contents(comparisons: list[Comparison], metric: str, title: str) -> dict[str, str]:
    """The contents of all files, by the ending that is added to the stem of the report's name."""
    images = over_images(comparisons)
    files = {
        "": report_html(comparisons, metric, title, images),
        ".md": report_markdown(comparisons, metric, images),
        "-runs.csv": report_csv(comparisons),
    }
    studies = _studies(comparisons)
    for place, study in enumerate(studies, start=1):
        known = {name for record in study.records for name in record.metrics}
        metrics = [
            m for m in dict.fromkeys([metric, *METRICS, *class_metrics(study)]) if m in known
        ]
        rows = differences_csv(study_tables(study, metrics), study.plan.baseline)
        files["-differences.csv" if len(studies) == 1 else f"-differences-{place}.csv"] = rows
    return files


def _write(files: dict[str, str], out: Path) -> list[Path]:
    """Write all files, with the first number in their names that overwrites no file."""
    out.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        stem = out.stem if number == 1 else f"{out.stem}-{number}"
        paths = [out.with_name(stem + (ending or out.suffix)) for ending in files]
        if not any(path.exists() for path in paths):
            break
        number += 1
    for path, content in zip(paths, files.values(), strict=True):
        write_text(path, content)
    return paths
