"""A split of a data set as it was read: image records, the same for every format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

from scalewise.lab.data.faults import FEW, BadData, Faults, format_counts
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.text import printable


@dataclass
class Split:
    """One part (train, val, test) of a data set, checked.

    Attributes:
        format: the format it was read from.
        name: the split's name as asked for.
        source: the list, annotation or YAML file(s) it was read from.
        classes: the class names; a label is an index into them.
        category_ids: the id of each class in the data set's own numbering.
        records: the images.
        skipped: one line for each of the first 10,000 faults that were skipped.
        skipped_counts: number of skipped faults of each kind.
        clipped: number of boxes that were cut to their image by more than half a pixel.
        unlabelled: number of images without a label file, taken as empty (YOLO).
        tolerance: less than this share of the images may turn out to be damaged when loaded.

    Examples:
        >>> from scalewise.data import open_split
        >>> split = open_split("demo:images=10,size=64", "train")
        >>> split.classes
        ('disc', 'square', 'triangle', 'ring', 'cross')
        >>> len(split.records)
        10
    """

    format: Literal["voc", "coco", "yolo"]
    name: str
    source: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: list[ImageRecord]
    skipped: list[str] = field(default_factory=list)
    skipped_counts: dict[str, int] = field(default_factory=dict)
    clipped: int = 0
    unlabelled: int = 0
    tolerance: float = FEW

    def describe(self) -> str:
        """Return one line: images, objects, classes, and what was changed or left out."""
        objects = sum(len(record.boxes) for record in self.records)
        text = (
            f"{self.name}: {len(self.records)} images, {objects} objects, "
            f"{len(self.classes)} classes"
        )
        if self.unlabelled:
            text += f", {self.unlabelled} images without a label file taken as empty"
        if self.clipped:
            text += f", {self.clipped} boxes clipped to their image"
        if self.skipped:
            text += f", skipped {format_counts(self.skipped_counts)}"
        return text


def finish(split: Split, faults: Faults, tolerance: float, hint: str = "") -> Split:
    """Raise an error if there are too many faults or no objects; else report the faults.

    Args:
        split: the split as read, without the parts that have a fault.
        faults: what was found while reading.
        tolerance: share of images and objects with a fault, see `Faults.raise_beyond`.
        hint: added to the message when no object is left.

    Returns:
        The same split with its fault report filled in.

    Raises:
        BadData: there are too many faults, or no object is left.
    """
    objects = sum(len(record.boxes) for record in split.records)
    faults.raise_beyond(tolerance, len(split.records), objects, split.source)
    split.clipped, split.tolerance = faults.clipped, tolerance
    split.skipped = [str(fault) for fault in faults.found]
    split.skipped_counts = faults.counts()
    if not any((~record.crowd).any() for record in split.records):
        why = f" after skipping {faults.summary()}" if split.skipped else ""
        raise BadData(
            f"{split.source}: split '{split.name}' has {len(split.records)} images "
            f"and no object to learn from{why}{hint}"
        )
    if split.skipped:
        warnings.warn(f"{printable(split.source)}: skipped {faults.summary()}", stacklevel=4)
    return split


def require_same_classes(one: Split, other: Split) -> None:
    """Refuse two splits that have different classes, or the same in a different order.

    Raises:
        BadData: they do; the message names the classes.
    """
    if one.classes == other.classes:
        return
    if lone := sorted(set(one.classes) ^ set(other.classes)):
        raise BadData(
            f"{other.source}: {one.name} and {other.name} name different classes: "
            f"{', '.join(map(repr, lone[:10]))} are in only one of them"
        )
    pairs = zip(one.classes, other.classes, strict=True)
    place = next(i for i, (mine, its) in enumerate(pairs) if mine != its)
    raise BadData(
        f"{other.source}: {one.name} and {other.name} have the same classes in different order: "
        f"class {place} (id {one.category_ids[place]}) is {one.classes[place]!r} in {one.name} and "
        f"{other.classes[place]!r} (id {other.category_ids[place]}) in {other.name}"
    )
