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

FEWEST = 4  # a batch needs this many images for a collage
_SHARE = 0.5  # of the images become collages; the others show large objects uncut
_SEEN = 0.1  # least share of an object's area that has to be left
_INNER = (0.25, 0.75)  # shares of the canvas: a quadrant has at least a sixteenth of it


class Collage(NamedTuple):
    """Four images of a batch that are put together.

    Attributes:
        rows: batch rows of the images in the upper left, upper right, lower left and lower right
            quadrant.
        y: vertical place of the point where they meet, as a share of the canvas height.
        x: horizontal place of that point, as a share of the canvas width.
    """

    rows: tuple[int, ...]
    y: float
    x: float


class Arrangement(NamedTuple):
    """Where the images of a collage lie.

    Attributes:
        height: height of the canvas in pixels.
        width: width of the canvas in pixels.
        corners: (top, left) of each image in pixels of the canvas, negative if it sticks out there.
    """

    height: int
    width: int
    corners: tuple[tuple[int, int], ...]


def mosaic(items: list[Item], seeds: Sequence[int | None]) -> list[Item]:
    """Replace half of a batch's images, on average, by collages.

    A collage holds the image and three others of the batch, one in each quadrant, in random order.
    Each image keeps its size and has one corner at the point where the four meet. That point is
    drawn from the inner half of the canvas in both directions. The canvas is as high as the highest
    of the four and as wide as the widest. Parts that stick out are cut off, objects with less than
    a tenth of their area left are dropped, and gaps are grey.

    Args:
        items: the items of the batch; fewer than four stay as they are.
        seeds: one seed per item, which decides whether and how it is replaced; None keeps it.

    Returns:
        The items, some replaced by collages.
    """
    if len(items) < FEWEST:
        return items
    result = []
    for row, (item, seed) in enumerate(zip(items, seeds, strict=True)):
        drawn = None if seed is None else draw_collage(row, len(items), seed)
        result.append(item if drawn is None else _collage(items, drawn, row))
    return result


def draw_collage(row: int, count: int, seed: int) -> Collage | None:
    """Draw whether a collage replaces an image, and which one.

    Args:
        row: row of the image in its batch.
        count: number of images in the batch, at least 4.
        seed: seed of the draws.

    Returns:
        The collage; None if the image stays.
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
    """Write an image into a canvas; parts that stick out are cut off.

    Args:
        canvas: uint8 [3, H, W], changed in place.
        piece: uint8 [3, h, w].
        top: row of the canvas at which the piece begins; may be negative.
        left: column of the canvas at which the piece begins; may be negative.
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
        The boxes clipped to the collages, float32 [k, 4], and bool [k]: whether enough of each box
        is left.
    """
    edges = torch.cat([sides, sides], -1).to(boxes.dtype)
    seen = (boxes + torch.cat([corners, corners], -1)).clamp(min=0).minimum(edges)
    wide = (seen[:, 2:] - seen[:, :2] >= LEAST_SIDE).all(1)
    return seen, wide & (_area(seen) >= _SEEN * _area(boxes))


def _collage(items: Sequence[Item], collage: Collage, row: int) -> Item:
    """Return the collage that replaces the image of a row."""
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
    """Return the areas [k] of boxes [k, 4]."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
