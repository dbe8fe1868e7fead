"""Detections on original images, the form in which they are scored and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from scalewise.data import Split
from scalewise.detectors.batch import Batch, Detections


@dataclass
class ImageDetections:
    """The k detections of one image.

    Attributes:
        image_id: the data set's.
        boxes: float32 [k, 4], (x1, y1, x2, y2) in pixels of the original image.
        scores: float32 [k] in 0..1.
        labels: int64 [k].
        levels: int64 [k], the pyramid level (0 = finest) that each box came from.
    """

    image_id: int
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]


def to_original(detections: Detections, batch: Batch) -> list[ImageDetections]:
    """Move detections from the padded images of a batch to the original ones.

    Args:
        detections: of the batch, on any device.
        batch: as it came from an evaluation loader.

    Returns:
        One entry per image, in order; boxes are clipped to the original image.
    """
    scales = batch.scales.float().cpu()  # [B, 2], (x, y)
    originals = (batch.sizes.cpu().flip(1) / scales).round()  # [B, 2], (width, height)
    boxes = detections.boxes.detach().float().cpu() / scales.repeat(1, 2)[:, None]  # [B, K, 4]
    boxes = torch.minimum(boxes.clamp(min=0), originals.repeat(1, 2)[:, None])
    fields = (boxes, *(field.detach().cpu() for field in detections[1:]))
    result = []
    for image_id, box, score, label, level, valid in zip(
        batch.image_ids.tolist(), *fields, strict=True
    ):
        result.append(
            ImageDetections(
                image_id=image_id,
                boxes=box[valid].numpy(),
                scores=score[valid].float().numpy(),
                labels=label[valid].numpy(),
                levels=level[valid].numpy(),
            )
        )
    return result


def check_detections(split: Split, detections: Iterable[ImageDetections]) -> None:
    """Refuse detections that do not belong to the split.

    Args:
        split: the images and classes.
        detections: at most one entry per image. An image without an entry counts as one on which
            nothing was found.

    Raises:
        ValueError: for an unknown or repeated image, an unknown label or a value that is not
            finite.
    """
    known = {record.image_id for record in split.records}
    seen: set[int] = set()
    for entry in detections:
        where = f"detections of image {entry.image_id}"
        if entry.image_id not in known:
            raise ValueError(f"{where}: split '{split.name}' has no such image")
        if entry.image_id in seen:
            raise ValueError(f"{where}: given twice")
        seen.add(entry.image_id)
        if len(entry.labels) and not 0 <= entry.labels.min() <= entry.labels.max() < len(
            split.classes
        ):
            raise ValueError(f"{where}: a label is not in 0..{len(split.classes) - 1}")
        if not (np.isfinite(entry.boxes).all() and np.isfinite(entry.scores).all()):
            raise ValueError(f"{where}: a box or score is not finite")
