"""What a data set is once read: a split of image records, whatever its format was."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from scalewise.data.faults import BadData, Box, Faults, format_counts


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
        skipped: one line per fault that was skipped, empty unless asked to skip.
        skipped_counts: number of skipped faults per kind.
        clipped: number of boxes that were cut to their image.
        unlabelled: number of images without a label file, taken as empty (YOLO).
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

    def add(
        self,
        box: Box,
        label: int,
        area: float | None = None,
        crowd: bool = False,
        difficult: bool = False,
    ) -> None:
        """Add one object; without an annotated area the box's counts."""
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.difficult.append(difficult)
        self.area.append((box[2] - box[0]) * (box[3] - box[1]) if area is None else area)

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


def finish(split: Split, faults: Faults, skip_bad: bool) -> Split:
    """Raise for the faults found, or write them down; refuse a split with nothing to learn.

    Args:
        split: the split as read, without what was at fault.
        faults: what was found while reading.
        skip_bad: go on without the faulty images and objects.

    Returns:
        The same split with its fault report filled in.

    Raises:
        BadData: on any fault unless `skip_bad`, and always when no object is left.
    """
    if not skip_bad:
        faults.raise_if_any(split.source)
    split.clipped = faults.clipped
    split.skipped = [str(fault) for fault in faults.found]
    split.skipped_counts = faults.counts()
    if not any((~record.crowd).any() for record in split.records):
        why = f" after skipping {format_counts(split.skipped_counts)}" if split.skipped else ""
        raise BadData(
            f"{split.source}: split '{split.name}' has {len(split.records)} images "
            f"and no object to learn from{why}"
        )
    if split.skipped:
        warnings.warn(
            f"{split.source}: skipped {format_counts(split.skipped_counts)}", stacklevel=4
        )
    return split


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
