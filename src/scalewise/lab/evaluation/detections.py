"""Detections in pixels of the original images, as they are scored and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from scalewise.lab.data.split import Split
from scalewise.lab.detectors.batch import Batch, Detections


@dataclass
class ImageDetections:
    """The k detections of one image.

    Attributes:
        image_id: id of the image in the data set.
        boxes: float32 [k, 4], (x1, y1, x2, y2) in pixels of the original image.
        scores: float32 [k] in 0..1.
        labels: int64 [k], index of the class.
        levels: int64 [k], the pyramid level (0 = finest) that each box came from.

    Examples:
        >>> import numpy as np
        >>> from scalewise.lab.evaluation import ImageDetections
        >>> found = ImageDetections(
        ...     image_id=1,
        ...     boxes=np.array([[5, 5, 40, 40]], np.float32),
        ...     scores=np.array([0.9], np.float32),
        ...     labels=np.array([0]),
        ...     levels=np.array([0]),
        ... )
        >>> len(found.boxes)
        1
    """

    image_id: int
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.integer]) -> ImageDetections:
        """Pick the detections of the given rows, in the order of `rows`."""
        return ImageDetections(
            self.image_id,
            self.boxes[rows],
            self.scores[rows],
            self.labels[rows],
            self.levels[rows],
        )


def to_original(detections: Detections, batch: Batch) -> list[ImageDetections]:
    """Move detections from the padded images of a batch to the original ones.

    Args:
        detections: detections on the batch, on any device.
        batch: the batch, from an evaluation loader.

    Returns:
        One entry per image, in order; boxes are clipped to the original image.

    Examples:
        >>> import scalewise as sw
        >>> from scalewise.data import DetectionDataset, make_loader, open_split
        >>> from scalewise.lab.evaluation import to_original
        >>> split = open_split("demo:images=10,size=64", "val")
        >>> dataset = DetectionDataset(split, size=96, augment=False)
        >>> loader = make_loader(dataset, batch_size=2, shuffle=False)
        >>> detector = sw.detectors.atss("mobilenet_v3_small", num_classes=5, width=16).eval()
        >>> [found.image_id for batch in loader for found in to_original(detector(batch), batch)]
        [1, 2]
    """
    table, counts, ids = _to_host(detections, batch)
    boxes = np.ascontiguousarray(table[:, :4]).view(np.float32)
    scores = np.ascontiguousarray(table[:, 4]).view(np.float32)
    labels, levels = table[:, 5].astype(np.int64), table[:, 6].astype(np.int64)
    ends = counts.cumsum().tolist()
    return [
        ImageDetections(
            image_id=image_id,
            boxes=boxes[start:end],
            scores=scores[start:end],
            labels=labels[start:end],
            levels=levels[start:end],
        )
        for image_id, start, end in zip(ids.tolist(), [0, *ends], ends, strict=False)
    ]


def _to_host(
    detections: Detections, batch: Batch
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Copy all that scoring needs to the CPU at once, as one table of 32-bit values.

    Returns:
        The d valid detections of all images, image by image, int32 [d, 7]: x1, y1, x2, y2 and
        score (these five hold the bits of float32 values), label and level; the number of
        detections of each image, int64 [B]; the image ids, int64 [B].
    """
    device = detections.boxes.device
    scales = batch.scales.to(device).float()  # [B, 2], (x, y)
    originals = (batch.sizes.to(device).flip(1) / scales).round()  # [B, 2], (width, height)
    boxes = detections.boxes.detach().float() / scales.repeat(1, 2)[:, None]  # [B, K, 4]
    boxes = torch.minimum(boxes.clamp(min=0), originals.repeat(1, 2)[:, None])
    scores = detections.scores.detach().float()[..., None]
    whole = torch.stack((detections.labels, detections.levels, detections.valid.long()), dim=-1)
    rows = torch.cat((boxes, scores), dim=-1).view(torch.int32)  # [B, K, 5]
    rows = torch.cat((rows, whole.int()), dim=-1).flatten(1)  # [B, K * 8]
    ids = batch.image_ids.to(device)[:, None].view(torch.int32)  # [B, 2]
    packed = torch.cat((rows, ids), dim=1).cpu().numpy()
    table = packed[:, :-2].reshape(len(packed), -1, 8)
    valid = table[..., 7] > 0  # [B, K]
    return table[valid][:, :7], valid.sum(1), packed[:, -2:].copy().view(np.int64)[:, 0]


def check_detections(split: Split, detections: Iterable[ImageDetections]) -> None:
    """Refuse detections that do not belong to the split.

    Args:
        split: the images and classes.
        detections: at most one entry per image. An image without an entry counts as an image
            without detections.

    Raises:
        ValueError: for an unknown or repeated image, an unknown label or a value that is not
            finite.
    """
    detections = list(detections)
    known = {record.image_id for record in split.records}
    if _sound(detections, known, len(split.classes)):
        return
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


def _sound(detections: list[ImageDetections], known: set[int], classes: int) -> bool:
    """Whether `check_detections` would find no fault; checks all images at once."""
    ids = {entry.image_id for entry in detections}
    if len(ids) < len(detections) or not ids <= known:
        return False
    labels, *numbers = (
        np.concatenate([np.zeros(0), *(np.ravel(getattr(entry, name)) for entry in detections)])
        for name in ("labels", "boxes", "scores")
    )
    inside = bool(((labels >= 0) & (labels < classes)).all())
    return inside and all(bool(np.isfinite(values).all()) for values in numbers)
