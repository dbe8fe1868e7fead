"""What a data set is once read: a split of image records, whatever its format was."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.faults import FEW, BadData, Box, Faults, format_counts
from scalewise.lab.data.text import printable


@dataclass
class ImageRecord:
    """One image and its k objects.

    Attributes:
        image_id: the id in the data set (COCO), or the position in the split's list from 1.
        path: the image file.
        width: in pixels.
        height: in pixels.
        boxes: float32 [k, 4], (x1, y1, x2, y2), edges in pixels of the original image, 0-based.
        labels: int64 [k] in 0..num_classes-1.
        crowd: bool [k], regions of many objects: neither trained on nor counted as misses.
        difficult: bool [k], VOC's mark: trained on, ignored by the VOC metrics.
        area: float32 [k], square pixels, as annotated (COCO: of the mask), else of the box.

    Examples:
        >>> from scalewise.data import open_split
        >>> record = open_split("demo:images=10,size=64", "train").records[0]
        >>> record.width, record.height
        (64, 64)
        >>> len(record.boxes) == len(record.labels)
        True
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float32]


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


@dataclass
class Objects:
    """Collects the objects of one image for its record."""

    boxes: list[Box] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    area: list[float] = field(default_factory=list)
    _seen: set[tuple[object, ...]] = field(default_factory=set)

    def add(
        self,
        box: Box,
        label: int,
        area: float | None = None,
        crowd: bool = False,
        difficult: bool = False,
    ) -> bool:
        """Add one object; without an annotated area the box's counts.

        Returns:
            False, and nothing is added, when an object of the same class and box is there already.
        """
        key = (label, crowd, *np.array(box, np.float32).tolist())
        if key in self._seen:
            return False
        self._seen.add(key)
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.difficult.append(difficult)
        self.area.append((box[2] - box[0]) * (box[3] - box[1]) if area is None else area)
        return True

    def record(self, image_id: int, path: Path, width: int, height: int) -> ImageRecord:
        """Return the finished record."""
        return ImageRecord(
            image_id=image_id,
            path=path,
            width=width,
            height=height,
            boxes=np.array(self.boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.array(self.labels, dtype=np.int64),
            crowd=np.array(self.crowd, dtype=np.bool_),
            difficult=np.array(self.difficult, dtype=np.bool_),
            area=np.array(self.area, dtype=np.float32),
        )


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


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Divide a split's images in two, the same way every time.

    Args:
        split: What to divide.
        share: Of the images, between 0 and 1, for the second part; at least one image each.

    Returns:
        The images kept and the images held out, in their order.

    Raises:
        BadData: when the split has fewer than two images.
    """
    count = len(split.records)
    if count < 2:
        raise BadData(f"{split.source}: {count} image cannot be divided; leave out the hold-out")
    drawn = np.random.default_rng(0).permutation(count)
    out = set(drawn[: min(count - 1, max(1, round(share * count)))].tolist())
    kept = [record for i, record in enumerate(split.records) if i not in out]
    held = [record for i, record in enumerate(split.records) if i in out]
    return (
        replace(split, name=f"{split.name}-kept", records=kept),
        replace(
            split,
            name=f"{split.name}-held-out",
            records=held,
            skipped=[],
            skipped_counts={},
            clipped=0,
            unlabelled=0,
        ),
    )
