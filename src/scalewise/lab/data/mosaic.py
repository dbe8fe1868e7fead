"""Collages of four images of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scalewise.lab.data.transforms import GREY, LEAST_SIDE

if TYPE_CHECKING:
    from scalewise.lab.data.dataset import Item

FEWEST = 4  # images of a batch for a collage
_SHARE = 0.5  # of the images: large objects, which a collage cuts, are to be seen whole too
_SEEN = 0.1  # least share of an object's area that is left of it
_INNER = (0.25, 0.75)  # of the canvas: a quadrant has at least a sixteenth of it


class Collage(NamedTuple):
    """Four images of a batch that are put together.

    Attributes:
        rows: of the batch, whose images fill the upper left, upper right, lower left and lower
            right quadrant.
        y: of the point where they meet, as a share of the canvas's height.
        x: of the point where they meet, as a share of the canvas's width.
    """

    rows: tuple[int, ...]
    y: float
    x: float


class Arrangement(NamedTuple):
    """Where the images of a collage lie.

    Attributes:
        height: of the canvas in pixels.
        width: of the canvas in pixels.
        corners: (top, left) of each image in pixels of the canvas, negative where it sticks out.
    """

    height: int
    width: int
    corners: tuple[tuple[int, int], ...]


def mosaic(items: list[Item], seeds: Sequence[int | None]) -> list[Item]:
    """Replace half of a batch's images, on average, by collages.

    A collage holds the image and three others of the batch, one in each quadrant, in random order.
    Each keeps its size and has one corner where the four meet: a random point of the canvas, in the
    inner half of both its sides. The canvas is as high as the highest of the four and as wide as
    the widest. What sticks out is cut off; objects of which less than a tenth is left are dropped;
    gaps are grey.

    Args:
        items: of the batch; fewer than four stay as they are.
        seeds: for each item, of whether it is replaced and by what; None leaves it as it is.

    Returns:
        The items and collages.
    """
    if len(items) < FEWEST:
        return items
    result = []
    for row, (item, seed) in enumerate(zip(items, seeds, strict=True)):
        drawn = None if seed is None else draw_collage(row, len(items), seed)
        result.append(item if drawn is None else _collage(items, drawn, row))
    return result


def draw_collage(row: int, count: int, seed: int) -> Collage | None:
    """Draw whether an image is replaced by a collage, and by which.

    Args:
        row: of the image in its batch.
        count: of the batch's images, at least 4.
        seed: of the draws.

    Returns:
        The collage; None where the image stays.
    """
    generator = np.random.default_rng(seed)
    if generator.random() >= _SHARE:
        return None
    others = [other for other in range(count) if other != row]
    rows = generator.permutation([row, *generator.choice(others, 3, replace=False)])
    return Collage(tuple(rows.tolist()), *generator.uniform(*_INNER, size=2).tolist())


def arrange(collage: Collage, sizes: Sequence[tuple[int, int]]) -> Arrangement:
    """Place the images of a collage.

    Args:
        collage: as drawn.
        sizes: (height, width) of each image of the batch, in pixels.
    """
    own = [sizes[row] for row in collage.rows]
    height, width = max(h for h, _ in own), max(w for _, w in own)
    middle_y, middle_x = round(collage.y * height), round(collage.x * width)
    corners = tuple(
        (middle_y if quadrant >= 2 else middle_y - h, middle_x if quadrant % 2 else middle_x - w)
        for quadrant, (h, w) in enumerate(own)
    )
    return Arrangement(height, width, corners)


def paste(canvas: Tensor, piece: Tensor, top: int, left: int) -> None:
    """Write an image into a canvas; what sticks out is cut off.

    Args:
        canvas: uint8 [3, H, W], changed in place.
        piece: uint8 [3, h, w].
        top: row of the canvas where the piece begins; may be negative.
        left: column of the canvas where the piece begins; may be negative.
    """
    height, width = piece.shape[1:]
    above, before = max(-top, 0), max(-left, 0)
    place = canvas[:, top + above : top + height, left + before : left + width]
    place.copy_(piece[:, above : above + place.shape[1], before : before + place.shape[2]])


def place_boxes(boxes: Tensor, corners: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Move boxes with their images into collages.

    Args:
        boxes: float32 [k, 4], corners in pixels of the images.
        corners: int64 [k, 2] or [2], (left, top) of the images in the collages.
        sides: int64 [k, 2] or [2], (width, height) of the collages.

    Returns:
        The boxes clipped to the collages, float32 [k, 4]; bool [k], whether enough of each is left.
    """
    edges = torch.cat([sides, sides], -1).to(boxes.dtype)
    seen = (boxes + torch.cat([corners, corners], -1)).clamp(min=0).minimum(edges)
    wide = (seen[:, 2:] - seen[:, :2] >= LEAST_SIDE).all(1)
    return seen, wide & (_area(seen) >= _SEEN * _area(boxes))


def _collage(items: Sequence[Item], collage: Collage, row: int) -> Item:
    """Return the collage that takes the place of the image in a row."""
    height, width, corners = arrange(
        collage, [(item.image.shape[1], item.image.shape[2]) for item in items]
    )
    canvas = torch.tensor(GREY, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    boxes, labels = [], []
    parts = [items[part] for part in collage.rows]
    for item, (top, left) in zip(parts, corners, strict=True):
        paste(canvas, item.image, top, left)
        seen, kept = place_boxes(
            item.boxes, torch.tensor([left, top]), torch.tensor([width, height])
        )
        boxes.append(seen[kept])
        labels.append(item.labels[kept])
    scale_x, scale_y = np.mean([item.scale for item in parts], axis=0).tolist()
    return items[row]._replace(
        image=canvas,
        boxes=torch.cat(boxes),
        labels=torch.cat(labels),
        scale=(scale_x, scale_y),
    )


def _area(boxes: Tensor) -> Tensor:
    """Of boxes [k, 4]: [k]."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
