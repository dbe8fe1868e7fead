"""Draws what runs found in the validation images in which they differ most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.images import load_image
from scalewise.lab.data.split import Split
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.evaluation.judged import Judged
from scalewise.lab.report.changed_images import ObjectGroups, chosen, group_objects, judged_run
from scalewise.lab.report.image_boxes import Mark, draw_marks
from scalewise.lab.report.markup import Html, Table, join, paragraph, picture, piece, table
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.training.building import open_splits

IMAGES = 4  # images, at most
ALL_PICTURES = 40  # pictures on a page, about, so that the page stays small
FOUND, WRONG, MISSED, ANNOTATED = "#15803d", "#c2410c", "#111111", "#1d4ed8"


@dataclass(frozen=True)
class Column:
    """A column in the table of pictures: a run, and its matched detections of each image."""

    title: str
    judged: list[Judged]


def drawings(runs: Sequence[tuple[str, ReportRun]], tables: int) -> Html:
    """Totals over the split, and pictures with a row for each image and a column for each run.

    Args:
        runs: Title and run; each run has a `detections.parquet` of the same validation split.
        tables: Number of tables of pictures on the page, which share the pictures of a page.

    Raises:
        UserError: the data set or an image cannot be read, or is not the one that the runs saw.
    """
    training, split = open_splits(runs[0][1].config)
    columns = [Column(title, judged_run(title, run, split)) for title, run in runs]
    groups = group_objects(runs[0][1], training, split)
    count = min(IMAGES, max(2, ALL_PICTURES // (tables * (len(columns) + 1))))
    places = chosen([column.judged for column in columns], groups, count)
    titles = ["annotated", *(column.title for column in columns)]
    rows = [_row(split.records[place], place, split, columns, groups) for place in places]
    which = "with the most misses" if len(columns) == 1 else "in which the runs differ most"
    return join(
        [
            paragraph(
                "Detections after the last epoch in all validation images. For each class, those "
                "are kept that reach the score at which its F1 is best in that run. A detection is "
                "right if it overlaps an object of its class with an IoU of at least 0.5, and no "
                "better detection has this object."
            ),
            table(_totals(columns, groups), "What was found in all validation images"),
            paragraph(
                f"Below are the {len(rows)} images {which}; objects of small groups count more in "
                "this choice. The images show what changed, not how good a run is."
            ),
            piece("picture_table", "Detections side by side", titles, rows, _key(groups)),
        ]
    )


def _totals(columns: Sequence[Column], groups: ObjectGroups) -> Table:
    """A table of found objects and wrong detections; found objects of the rare group too."""
    named = [] if groups.rare is None else [f"{groups.names[groups.rare]} found"]
    rows = []
    for column in columns:
        found = np.zeros_like(groups.counts)
        for one in column.judged:
            np.add.at(found, groups.ids[one.record.image_id][one.hits[one.right]], 1)
        wrong = sum(int((~one.right).sum()) for one in column.judged)
        rare = (
            [] if groups.rare is None else [f"{found[groups.rare]} of {groups.counts[groups.rare]}"]
        )
        rows.append([column.title, f"{found.sum()} of {groups.counts.sum()}", *rare, str(wrong)])
    return Table(["run", "objects found", *named, "wrong detections"], rows)


def _row(
    record: ImageRecord, place: int, split: Split, columns: Sequence[Column], groups: ObjectGroups
) -> list[tuple[Html, str]]:
    """Pictures with their text: one of the annotation, and one for each run."""
    image = Image.fromarray(load_image(record.path))
    several = len(split.classes) > 1
    objects = np.flatnonzero(~record.crowd)
    names = [split.classes[label] for label in record.labels]
    rare = groups.ids[record.image_id] == groups.rare
    marks = [
        Mark(record.boxes[i], ANNOTATED, strong=bool(rare[i]), name=names[i] if several else "")
        for i in objects
    ]
    words = f"{record.path.name}, annotated: {_counted([names[i] for i in objects])}"
    cells = [(draw_marks(image, marks), words)]
    for column in columns:
        one = column.judged[place]
        marks = list(_marks(one, names, split.classes, rare))
        cells.append((draw_marks(image, marks), _words(one, names, split.classes)))
    return [(picture(drawn, words), words) for drawn, words in cells]


def _marks(
    one: Judged, names: Sequence[str], classes: Sequence[str], rare: npt.NDArray[np.bool_]
) -> Iterator[Mark]:
    """Boxes that were found, wrong or missed; those of the rare group are strong and named."""
    for box, label, hit in zip(one.kept.boxes, one.kept.labels, one.hits, strict=True):
        if hit < 0:
            yield Mark(box, WRONG, name=classes[label])
        else:
            yield Mark(box, FOUND, strong=bool(rare[hit]), name=names[hit] if rare[hit] else "")
    for i in one.missed:
        yield Mark(one.record.boxes[i], MISSED, True, bool(rare[i]), names[i] if rare[i] else "")


def _words(one: Judged, names: Sequence[str], classes: Sequence[str]) -> str:
    kept, levels = one.kept, level_names()

    def listed(rows: npt.NDArray[np.bool_]) -> str:
        found = [
            f"{classes[kept.labels[i]]} {kept.scores[i]:.2f} {levels[kept.levels[i]]}"
            for i in np.flatnonzero(rows)
        ]
        return ", ".join(found) or "nothing"

    missed = _counted([names[i] for i in one.missed])
    return f"found: {listed(one.right)}; wrong: {listed(~one.right)}; missed: {missed}"


def _counted(names: Sequence[str]) -> str:
    counts = {name: list(names).count(name) for name in names}
    return ", ".join(name if n == 1 else f"{n} {name}" for name, n in counts.items()) or "nothing"


def _key(groups: ObjectGroups) -> list[tuple[str, str, str]]:
    """The key of the pictures: colour, line and meaning."""
    thin, dashed = "2px solid", "2px dashed"
    lines = ((ANNOTATED, thin), (FOUND, thin), (MISSED, dashed), (WRONG, thin))
    words = ("annotated", "found", "missed", "wrong")
    key = [(color, line, word) for (color, line), word in zip(lines, words, strict=True)]
    if groups.rare is not None:
        key.append(("#555555", "4px solid", f"{groups.names[groups.rare]}, the rarest"))
    return key
