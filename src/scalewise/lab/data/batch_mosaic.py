"""Collages of four images, for a batch that is already on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scalewise.lab.data.batch_transforms import grey_padding
from scalewise.lab.data.mosaic import (
    Arrangement,
    Collage,
    arrange,
    draw_collage,
    paste,
    place_boxes,
)


class FlatObjects(NamedTuple):
    """The k objects of a batch in one list, image after image.

    Attributes:
        boxes: float32 [k, 4], corners in pixels.
        labels: int64 [k].
        owners: int64 [k], rising: the batch row of each object's image.
    """

    boxes: Tensor
    labels: Tensor
    owners: Tensor

    def padded(self, images: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes [B, M, 4], labels [B, M] and bool [B, M]: which entries are objects."""
        counts = self.owners.bincount(minlength=images)
        most = int(counts.max())
        place = torch.arange(len(self.owners)) - (counts.cumsum(0) - counts)[self.owners]
        boxes = torch.zeros(images, most, 4)
        labels = torch.zeros(images, most, dtype=torch.int64)
        boxes[self.owners, place] = self.boxes
        labels[self.owners, place] = self.labels
        return boxes, labels, torch.arange(most) < counts[:, None]


class _Piece(NamedTuple):
    """An image, or a part of it, in the new batch.

    Attributes:
        row: its row in the new batch.
        part: its row in the old batch.
        top: row of pixels where it begins; may be negative.
        left: column of pixels where it begins; may be negative.
    """

    row: int
    part: int
    top: int
    left: int


def put_together(
    images: Tensor,
    objects: FlatObjects,
    sizes: Tensor,
    scales: Tensor,
    seeds: Sequence[int | None],
) -> tuple[Tensor, FlatObjects, Tensor, Tensor]:
    """Replace half of a batch's images, on average, by collages, as `mosaic` does.

    Args:
        images: uint8 [B, 3, H, W], each image in the upper left corner; B is at least 4.
        objects: the objects of all images, on the CPU.
        sizes: int64 [B, 2] on the CPU, (height, width) of each image in pixels.
        scales: float64 [B, 2] on the CPU, (y, x) factors from original pixels.
        seeds: one seed per image, which decides whether and how it is replaced; None keeps it.

    Returns:
        The new images, objects, sizes and scales. The arguments are not changed.
    """
    known: list[tuple[int, int]] = [(height, width) for height, width in sizes.tolist()]
    drawn: dict[int, tuple[Collage, Arrangement]] = {}
    for row, seed in enumerate(seeds):
        collage = None if seed is None else draw_collage(row, len(seeds), seed)
        if collage is not None:
            drawn[row] = collage, arrange(collage, known)
    if not drawn:
        return images, objects, sizes, scales
    pieces: list[_Piece] = []
    result, new_sizes, new_scales = images.clone(), sizes.clone(), scales.clone()
    grey = grey_padding(images.device)
    for row in range(len(seeds)):
        if row not in drawn:
            pieces.append(_Piece(row, row, 0, 0))
            continue
        collage, (height, width, corners) = drawn[row]
        result[row] = grey
        for part, (top, left) in zip(collage.rows, corners, strict=True):
            h, w = known[part]
            paste(result[row, :, :height, :width], images[part, :, :h, :w], top, left)
            pieces.append(_Piece(row, part, top, left))
        new_sizes[row] = torch.tensor([height, width])
        new_scales[row] = scales[list(collage.rows)].mean(0)
    return result, _place(objects, pieces, new_sizes), new_sizes, new_scales


def _place(objects: FlatObjects, pieces: Sequence[_Piece], sizes: Tensor) -> FlatObjects:
    """Move the objects of the pieces, and drop those with too little left in view."""
    counts = objects.owners.bincount(minlength=len(sizes)).tolist()
    ends = objects.owners.bincount(minlength=len(sizes)).cumsum(0).tolist()
    chosen = torch.tensor(
        [
            i
            for piece in pieces
            for i in range(ends[piece.part] - counts[piece.part], ends[piece.part])
        ],
        dtype=torch.int64,
    )
    lengths = torch.tensor([counts[piece.part] for piece in pieces])
    owners = torch.tensor([piece.row for piece in pieces]).repeat_interleave(lengths)
    corners = torch.tensor([(piece.left, piece.top) for piece in pieces])
    corners = corners.repeat_interleave(lengths, 0)
    boxes, kept = place_boxes(objects.boxes[chosen], corners, sizes[owners].flip(1))
    return FlatObjects(boxes[kept], objects.labels[chosen][kept], owners[kept])
