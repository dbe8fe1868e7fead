"""The format in which images and objects are given to a detector."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

FEWEST = 8  # objects that a padded batch has room for


class Batch(NamedTuple):
    """B images padded to one size, with their objects padded to one count M.

    Padding instead of ragged lists keeps assignment and losses free of loops over images.

    Attributes:
        images: uint8 [B, 3, H, W], RGB; H and W are multiples of 32. The image lies in the top left
            corner, the rest is padding. The detector itself scales to 0..1 and normalises.
        boxes: float32 [B, M, 4], (x1, y1, x2, y2) in pixels of the padded image; padding is 0.
        labels: int64 [B, M] in 0..num_classes-1; padding rows are 0.
        valid: bool [B, M], False for padding rows. M may be 0.
        sizes: int64 [B, 2], (height, width) of each image inside the padding.
        scales: float32 [B, 2], (x, y) factor from original pixels to pixels of the padded image.
        image_ids: int64 [B], the data set's image ids.

    Examples:
        >>> from scalewise.data import DetectionDataset, make_loader, open_split
        >>> dataset = DetectionDataset(open_split("demo:images=10,size=64"), size=64, augment=False)
        >>> batch = next(iter(make_loader(dataset, batch_size=2, shuffle=False)))
        >>> batch.images.shape, batch.boxes.shape[::2], batch.image_ids
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 4]), tensor([1, 2]))
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    sizes: Tensor
    scales: Tensor
    image_ids: Tensor


class Detections(NamedTuple):
    """The K best detections of each of B images, best first, padded with `valid` False.

    Attributes:
        boxes: float32 [B, K, 4], (x1, y1, x2, y2) in pixels, clipped to the image.
        scores: float32 [B, K] in 0..1; 0 for padding.
        labels: int64 [B, K].
        levels: int64 [B, K], the pyramid level (0 = finest) that each box came from.
        valid: bool [B, K].

    Examples:
        >>> import torch
        >>> from scalewise.lab.detectors.batch import Detections
        >>> found = Detections(
        ...     boxes=torch.tensor([[[5.0, 5.0, 40.0, 40.0], [0.0, 0.0, 0.0, 0.0]]]),
        ...     scores=torch.tensor([[0.9, 0.0]]),
        ...     labels=torch.tensor([[1, 0]]),
        ...     levels=torch.tensor([[0, 0]]),
        ...     valid=torch.tensor([[True, False]]),
        ... )
        >>> found.boxes[found.valid]
        tensor([[ 5.,  5., 40., 40.]])
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor
    valid: Tensor


def pad_objects(batch: Batch) -> Batch:
    """Pad the objects of a batch to one of a few numbers of rows: 8, 16, 32, and so on.

    A compiled detector makes a new graph for each number of rows; padded batches share a few. Rows
    of padding change the losses only by float32 rounding.

    Args:
        batch: with M rows of objects per image, M from 0 on.

    Returns:
        The batch with that number of rows; the same object if it has that number already.

    Examples:
        >>> import torch
        >>> from scalewise.lab.detectors.batch import Batch, pad_objects
        >>> batch = Batch(
        ...     images=torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        ...     boxes=torch.zeros(2, 11, 4),
        ...     labels=torch.zeros(2, 11, dtype=torch.int64),
        ...     valid=torch.ones(2, 11, dtype=torch.bool),
        ...     sizes=torch.full((2, 2), 64),
        ...     scales=torch.ones(2, 2),
        ...     image_ids=torch.arange(2),
        ... )
        >>> padded = pad_objects(batch)
        >>> padded.valid.shape, padded.valid.sum(1)
        (torch.Size([2, 16]), tensor([11, 11]))
    """
    objects = batch.valid.shape[1]
    more = max(FEWEST, 1 << (objects - 1).bit_length() if objects else 0) - objects
    if not more:
        return batch
    return batch._replace(
        boxes=F.pad(batch.boxes, (0, 0, 0, more)),
        labels=F.pad(batch.labels, (0, more)),
        valid=F.pad(batch.valid, (0, more)),
    )
