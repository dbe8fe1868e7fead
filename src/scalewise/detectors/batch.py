"""The one format in which images and objects reach a detector."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor
    valid: Tensor
