"""Counts labels that look like mistakes, and names the first places of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split
from scalewise.lab.data.text import printable

PLACES = 3
ALIKE = 0.9  # with at least this IoU, two boxes of one class may be one object labelled twice
CLOSE = 0.8  # with at least this IoU, two boxes of different classes may be one object
WHOLE = 0.95  # a box with this share of the width and of the height covers the whole image
THIN = 1.0  # pixels of the original image
_ROWS = 512  # boxes of an image that are compared with all others in one call


@dataclass(frozen=True)
class Doubt:
    """A kind of doubtful label.

    Attributes:
        what: The kind, in a few words.
        count: Number of such labels.
        places: The first three, each as file and object.
    """

    what: str
    count: int
    places: tuple[str, ...]


def doubtful(split: Split) -> tuple[Doubt, ...]:
    """Find doubtful labels. All kinds are returned, also those with a count of 0.

    Crowd regions are ignored here, and so is what the reader already left out as faulty.

    Args:
        split: A data set that has been read.
    """
    kinds: dict[str, list[str]] = {
        f"one class, boxes alike (IoU {ALIKE:g} and more)": [],
        f"two classes, boxes alike (IoU {CLOSE:g} and more)": [],
        f"boxes up to {THIN:g} pixel wide or high": [],
        f"boxes of the whole image ({WHOLE:.0%} each way)": [],
        "images without an object": [],
    }
    twice, mixed, thin, whole, empty = kinds.values()
    for record in split.records:
        kept = ~record.crowd
        boxes, labels = record.boxes[kept], record.labels[kept]
        if not len(boxes):
            empty.append(printable(record.path.name))
            continue
        for first, second, overlap in _overlapping(boxes, min(ALIKE, CLOSE)):
            same = labels[first] == labels[second]
            if overlap >= (ALIKE if same else CLOSE):
                place = _named(record, split.classes, labels, boxes, first)
                if not same:
                    place += f" and {printable(split.classes[labels[second]])}"
                (twice if same else mixed).append(place)
        sides = boxes[:, 2:] - boxes[:, :2]
        image = np.array([record.width, record.height], np.float32)
        for found, where in (
            (thin, (sides <= THIN).any(1)),
            (whole, (sides >= WHOLE * image).all(1)),
        ):
            found += [
                _named(record, split.classes, labels, boxes, int(i)) for i in np.flatnonzero(where)
            ]
    return tuple(Doubt(what, len(found), tuple(found[:PLACES])) for what, found in kinds.items())


def _overlapping(boxes: npt.NDArray[np.float32], least: float) -> Iterator[tuple[int, int, float]]:
    """Yield each pair of boxes with at least this IoU: the lower index, the higher, the IoU."""
    every = torch.from_numpy(boxes).double()
    for start in range(0, len(boxes), _ROWS):
        overlap = box_iou(every[start : start + _ROWS], every[start:])
        for row, column in torch.nonzero(overlap >= least).tolist():
            if row < column:
                yield start + row, start + column, float(overlap[row, column])


def _named(
    record: ImageRecord,
    classes: Sequence[str],
    labels: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.float32],
    place: int,
) -> str:
    """The name of the file, and the class and box (original pixels) of the object."""
    corners = " ".join(f"{edge:.0f}" for edge in boxes[place])
    return printable(f"{record.path.name}: {classes[labels[place]]} ({corners})")
