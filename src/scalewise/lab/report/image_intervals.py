"""Intervals of differences over resampled evaluation images, for fixed trained models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalewise.lab.report.markup import (
    Html,
    Section,
    Table,
    absent,
    bullets,
    join,
    paragraph,
    table,
)
from scalewise.lab.report.subjects import Comparison
from scalewise.lab.study.other_images import CAUTION, ImageBootstrap, image_bootstrap
from scalewise.lab.study.verdicts import interval_points, points

RESAMPLES = 500


def over_images(comparisons: Sequence[Comparison]) -> dict[int, ImageBootstrap]:
    """Resample the images of each study; the keys are `id(study)`."""
    studies = {id(c.study): c.study for c in comparisons if c.study is not None}
    return {key: image_bootstrap(study, RESAMPLES) for key, study in studies.items()}


def images_section(
    comparisons: Sequence[Comparison], found: Mapping[int, ImageBootstrap]
) -> Section:
    """A table for each detector of a study, and a list of what could not be resampled."""
    parts: list[Html] = [paragraph(CAUTION)]
    for comparison in comparisons:
        own = [
            d
            for d in (found[id(comparison.study)].differences if comparison.study else [])
            if d.detector == comparison.detector
        ]
        if not own:
            parts.append(absent(f"{comparison.title}: no detections to resample in pairs."))
            continue
        rows = [
            [d.scheme, d.metric, points(d.difference), interval_points(d.interval),
             str(len(d.seeds)), str(d.images)]
            for d in own
        ]  # fmt: skip
        header = ["", "metric", f"minus {comparison.baseline}", "95% interval", "seeds", "images"]
        parts.append(table(Table(header, rows), f"{comparison.title}, AP points (percent)"))
    left_out = list(dict.fromkeys(line for one in found.values() for line in one.left_out))
    if left_out:
        parts += [paragraph("Not resampled:"), bullets(left_out)]
    return Section("images", "Differences over evaluation images", join(parts))
