"""Detections drawn on validation images, as pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from scalewise.lab.data.images import load_image
from scalewise.lab.data.split import ImageRecord, Split
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.inference.drawing import draw
from scalewise.lab.report.markup import Html, join, paragraph, text
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.trace_picture import level_color

IMAGES = 6  # where few runs are shown
ALL_PICTURES = 60  # of a page, so that it stays small
THRESHOLD = 0.3
SIDE = 400  # pixels of the longer side: labels stay legible where a picture is shown small


@dataclass(frozen=True)
class Column:
    """A run in the table of pictures, with its detections by image."""

    title: str
    run: ReportRun
    found: dict[int, ImageDetections]


def drawings(runs: Sequence[tuple[str, ReportRun]], tables: int) -> Html:
    """A table of pictures: a row an image, a column a run, the annotation first.

    Args:
        runs: Title and run; each with a `detections.parquet` on the same validation split.
        tables: Tables of pictures on the page, which share its room.

    Raises:
        UserError: when the data set or an image cannot be read.
    """
    columns = [
        Column(title, run, {i.image_id: i for i in read_detections(_detections(run))})
        for title, run in runs
    ]
    split = open_splits(runs[0][1].config)[1]
    records = chosen(split, min(IMAGES, max(2, ALL_PICTURES // (tables * (len(columns) + 1)))))
    titles = ["annotated", *(column.title for column in columns)]
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    rows = join(_row(record, split, columns) for record in records)
    return join(
        [
            paragraph(
                f"Boxes with a score of at least {THRESHOLD} after the last epoch, in the colour "
                f"of the level they came from. The {len(records)} images were picked by the size "
                "of their objects alone, from the smallest to the largest, not by what was found."
            ),
            _key(),
            Html(
                '<div class="scroll" role="region" tabindex="0" aria-label="Detections side by '
                f'side"><table class="pictures"><thead><tr>{head}</tr></thead>\n'
                f"<tbody>{rows}</tbody></table></div>"
            ),
        ]
    )


def chosen(split: Split, count: int) -> list[ImageRecord]:
    """Images spread over the sizes of the objects in them, smallest first.

    Args:
        split: The validation split.
        count: Images at most.
    """
    known = [record for record in split.records if (~record.crowd).any()]
    known.sort(key=lambda r: (float(np.median(r.area[~r.crowd])), r.image_id))
    places = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))
    return [known[place] for place in places]


def _detections(run: ReportRun) -> Path:
    return run.folder / "detections.parquet"


def _row(record: ImageRecord, split: Split, columns: Sequence[Column]) -> Html:
    image = Image.fromarray(load_image(record.path))
    factor = SIDE / max(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    image = image.resize(size, Image.Resampling.BICUBIC)
    cells = [_truth(record, split.classes, image, factor)]
    for column in columns:
        classes = column.run.environment.get("classes") or split.classes
        cells.append(_found(column.found.get(record.image_id), classes, image, factor))
    return Html("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")


def _truth(record: ImageRecord, classes: Sequence[str], image: Image.Image, factor: float) -> Html:
    canvas = image.copy()
    pen = ImageDraw.Draw(canvas)
    for box in record.boxes[~record.crowd]:
        x1, y1, x2, y2 = (float(edge) * factor for edge in box)
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(corners, outline="black", width=4)
        pen.rectangle(corners, outline="white", width=2)
    names = [classes[label] for label in record.labels[~record.crowd]]
    return _picture(canvas, f"{record.path.name}, annotated: {_counted(names)}")


def _found(
    found: ImageDetections | None, classes: Sequence[str], image: Image.Image, factor: float
) -> Html:
    if found is None or not (keep := found.scores >= THRESHOLD).any():
        empty = np.zeros((0, 4), np.float32)
        canvas = draw(image, empty, np.zeros(0), [], np.zeros(0, int), [])
        return _picture(canvas, f"nothing with a score of at least {THRESHOLD}")
    order = np.argsort(-found.scores[keep], kind="stable")
    labels = [classes[label] for label in found.labels[keep][order]]
    scores, levels = found.scores[keep][order], found.levels[keep][order]
    names = list(level_names())
    canvas = draw(image, found.boxes[keep][order] * factor, scores, labels, levels, names)
    listed = [
        f"{label} {score:.2f} {names[level]}"
        for label, score, level in zip(labels, scores, levels, strict=True)
    ]
    return _picture(canvas, "found: " + ", ".join(listed))


def _counted(names: Sequence[str]) -> str:
    counts = {name: list(names).count(name) for name in names}
    return ", ".join(name if n == 1 else f"{n} {name}" for name, n in counts.items()) or "nothing"


def _picture(image: Image.Image, words: str) -> Html:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=72, optimize=True)
    data = base64.b64encode(held.getvalue()).decode("ascii")
    return Html(
        f'<img src="data:image/jpeg;base64,{data}" width="{image.width}" height="{image.height}" '
        f'alt="{text(words)}"><details><summary>in words</summary>{text(words)}</details>'
    )


def _key() -> Html:
    names = level_names()
    items = "".join(
        f'<span><i style="background:{level_color(i)}"></i>{name}</span>'
        for i, name in enumerate(names)
    )
    return Html(f'<p class="key">{items}<span>white: annotated</span></p>')
