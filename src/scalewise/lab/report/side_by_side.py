"""Shows detections of several runs on the same validation images, side by side."""

from __future__ import annotations

from scalewise.errors import UserError
from scalewise.lab.report.markup import Html, Section, absent, heading, join
from scalewise.lab.report.subjects import Comparison, ReportRun, Series


def pictures_section(comparisons: list[Comparison]) -> Section:
    """Pictures of the detections of each series on the same validation images."""
    parts: list[Html] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.title))
        parts += _of_comparison(comparison, len(comparisons))
    return Section("pictures", "Detections side by side", join(parts))


def _of_comparison(comparison: Comparison, tables: int) -> list[Html]:
    found = [(series.label, _first_run(series)) for series in comparison.series]
    shown = [
        (f"{label}, seed {run.config.seed}" if comparison.study else label, run)
        for label, run in found
        if run is not None
    ]
    without = [label for label, run in found if run is None]
    notes = (
        [absent(f"No detections were kept (detections.parquet): {', '.join(without)}.")]
        if without
        else []
    )
    if not shown:
        return notes
    from scalewise.lab.report.drawn_images import drawings  # needs torchvision, which takes seconds

    try:
        return [*notes, drawings(shown, tables)]
    except (UserError, OSError) as error:
        return [
            *notes,
            absent(f"No pictures, since the validation images cannot be read: {error}"),
        ]


def _first_run(series: Series) -> ReportRun | None:
    """The first run of a series that kept its detections; None without one."""
    kept = (run for run in series.runs if (run.folder / "detections.parquet").is_file())
    return next(kept, None)
