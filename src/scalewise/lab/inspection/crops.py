"""Cuts example objects of each group out of their images.

Only this part of an inspection reads pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.images import load_image
from scalewise.lab.data.split import Split
from scalewise.lab.inspection.look import Inspection
from scalewise.lab.inspection.size_groups import size_groups

SIDE = 96  # pixels of a crop
EXAMPLES = 8  # for each group
_CLASSES = 6  # classes with examples: the rarest and the most frequent
_AROUND = 0.25  # margin on each side of a box, as a part of its longer side
_LEAST = 24.0  # smallest side of the shown square, in pixels of the image


@dataclass(frozen=True)
class Strip:
    """Examples of one group, side by side.

    Attributes:
        name: Name of the group.
        sides: Square root of each box's area, in pixels of its image, ascending.
        image: RGB, the crops in a row; each box is outlined.
    """

    name: str
    sides: tuple[float, ...]
    image: Image.Image


def strips(
    found: Inspection, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Strip], list[str]]:
    """Cut out examples of the rarest and the most frequent classes, and of each size.

    Args:
        found: The findings about a data set.
        advance: Called with the number of groups that are done and of all groups.

    Returns:
        The strips, and a line for each image that could not be read.
    """
    objects = _objects(found.split)
    sides = np.array([side for _, _, side in objects])
    labels = np.array([record.labels[place] for record, place, _ in objects])
    sizes = size_groups(found.split, found.config.size_edges)
    group = np.array(
        [int(sizes(r.boxes[i : i + 1], r.labels[i : i + 1])[0]) for r, i, _ in objects]
    )
    wanted = [
        (found.split.classes[label], np.flatnonzero(labels == label))
        for label in _shown_classes(found)
    ]
    wanted += [
        (one.name, np.flatnonzero(group == place))
        for place, one in enumerate(found.groups["size"])
        if one.objects
    ]
    out, unreadable = [], []
    for done, (name, members) in enumerate(wanted, start=1):
        chosen = [objects[i] for i in _spread(members, sides, objects)]
        strip, errors = _strip(name, chosen)
        out += [strip] if strip is not None else []
        unreadable += errors
        advance(done, len(wanted))
    return out, list(dict.fromkeys(unreadable))


def _objects(split: Split) -> list[tuple[ImageRecord, int, float]]:
    """Every object: its image, its index there, and its side (√area) in pixels of the image."""
    return [
        (record, int(place), float(np.sqrt((box[2:] - box[:2]).prod())))
        for record in split.records
        for place in np.flatnonzero(~record.crowd)
        for box in (record.boxes[place],)
    ]


def _shown_classes(found: Inspection) -> list[int]:
    """At most six classes with objects: the three rarest and the three most frequent."""
    counts = [group.objects for group in found.groups["class"]]
    order = sorted((i for i, n in enumerate(counts) if n), key=lambda i: (counts[i], i))
    if len(order) > _CLASSES:
        order = order[: _CLASSES // 2] + order[-(_CLASSES // 2) :]
    return order


def _spread(
    members: np.ndarray, sides: np.ndarray, objects: Sequence[tuple[ImageRecord, int, float]]
) -> list[int]:
    """Choose members of all sizes, ascending by size, from different images where possible."""
    order = members[np.argsort(sides[members], kind="stable")]
    chosen: list[int] = []
    seen: set[int] = set()
    for part in np.array_split(order, min(EXAMPLES, len(order))):
        middle = len(part) // 2
        nearest = sorted(part, key=lambda i: abs(int(np.flatnonzero(part == i)[0]) - middle))
        fresh = (i for i in nearest if id(objects[i][0]) not in seen)
        pick = int(next(fresh, nearest[0]))
        seen.add(id(objects[pick][0]))
        chosen.append(pick)
    return chosen


def _strip(
    name: str, chosen: Sequence[tuple[ImageRecord, int, float]]
) -> tuple[Strip | None, list[str]]:
    crops, sides, unreadable = [], [], []
    for record, place, side in chosen:
        try:
            pixels = load_image(record.path)
        except BadData as error:
            unreadable.append(str(error))
            continue
        crops.append(_crop(Image.fromarray(pixels), record.boxes[place]))
        sides.append(side)
    if not crops:
        return None, unreadable
    gap = 4
    image = Image.new("RGB", ((SIDE + gap) * EXAMPLES - gap, SIDE), "white")
    for position, crop in enumerate(crops):
        image.paste(crop, (position * (SIDE + gap), 0))
    return Strip(name, tuple(sides), image), unreadable


def _crop(image: Image.Image, box: np.ndarray) -> Image.Image:
    """Cut out a square around a box, with the box outlined; grey beyond the image."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    side = max(_LEAST, (1 + 2 * _AROUND) * max(x2 - x1, y2 - y1))
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    factor = SIDE / side
    crop = image.transform(
        (SIDE, SIDE),
        Image.Transform.AFFINE,
        (1 / factor, 0, left, 0, 1 / factor, top),
        Image.Resampling.BICUBIC,
        fillcolor=(128, 128, 128),
    )
    corners = [(x1 - left) * factor, (y1 - top) * factor, (x2 - left) * factor, (y2 - top) * factor]
    pen = ImageDraw.Draw(crop)
    pen.rectangle(corners, outline="black", width=3)
    pen.rectangle([c + d for c, d in zip(corners, (1, 1, -1, -1), strict=True)], outline="white")
    return crop
