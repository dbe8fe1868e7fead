"""An image of a split and its objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.box_faults import Box


@dataclass
class ImageRecord:
    """One image and its k objects.

    Attributes:
        image_id: the id in the data set (COCO), or the position among the split's records, from 1.
        path: the image file.
        width: width of the upright image in pixels.
        height: height of the upright image in pixels.
        boxes: float32 [k, 4], (x1, y1, x2, y2), edges in pixels of the original image, 0-based.
        labels: int64 [k] in 0..num_classes-1.
        crowd: bool [k], regions of many objects: neither trained on nor counted as misses.
        difficult: bool [k], VOC's mark: trained on, ignored by the VOC metrics.
        area: float32 [k], square pixels: the annotated area (COCO: of the mask), or the box's.

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
        """Add one object; without an annotated area, the area of the box is taken.

        Returns:
            False if nothing was added, as the image already has an object with the same class, box
            and crowd mark.
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
