"""What a data set is once read: a split of image records, whatever its format was."""

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
        source: the list or annotation file(s) it was read from.
        classes: the class names; a label is an index into them.
        category_ids: the class's id in the data set's own numbering, per class.
        records: the images.
        skipped: one line for each of the first 10,000 faults that were skipped.
        skipped_counts: number of skipped faults per kind.
        clipped: number of boxes that were cut to their image.
        unlabelled: number of images without a label file, taken as empty (YOLO).
        tolerance: share of the images that may turn out to be damaged when they are loaded.

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
        """Return one line: images, objects, classes, and what is not as annotated."""
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
    """Raise for the faults found, or write them down; refuse a split with nothing to learn.

    Args:
        split: the split as read, without what was at fault.
        faults: what was found while reading.
        tolerance: share of images and objects that may be at fault, see `Faults.raise_beyond`.
        hint: what else to say when no object is left.

    Returns:
        The same split with its fault report filled in.

    Raises:
        BadData: on more faults than that, and always when no object is left.
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
    """Refuse two splits whose labels do not mean the same.

    Raises:
        BadData: naming the classes of one only, or the first that stand at another place.
    """
    if one.classes == other.classes:
        return
    if lone := sorted(set(one.classes) ^ set(other.classes)):
        raise BadData(
            f"{other.source}: {one.name} and {other.name} name different classes: "
            f"{', '.join(map(repr, lone[:10]))} stand in one only"
        )
    pairs = zip(one.classes, other.classes, strict=True)
    place = next(i for i, (mine, its) in enumerate(pairs) if mine != its)
    raise BadData(
        f"{other.source}: {one.name} and {other.name} have the same classes in different order: "
        f"class {place} (id {one.category_ids[place]}) is {one.classes[place]!r} in {one.name} and "
        f"{other.classes[place]!r} (id {other.category_ids[place]}) in {other.name}"
    )
