"""Collages of four images of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchvision.transforms import v2

from scalewise.data.transforms import GREY, as_boxes

if TYPE_CHECKING:
    from scalewise.data.dataset import Item

_SHARE = 0.5  # of the images: large objects, which a collage cuts, are to be seen whole too
_SEEN = 0.1  # least share of an object's area that is left of it
_INNER = (0.25, 0.75)  # of the canvas: a quadrant has at least a sixteenth of it


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
    if len(items) < 4:
        return items
    return [
        item if seed is None else _draw(items, row, seed)
        for row, (item, seed) in enumerate(zip(items, seeds, strict=True))
    ]


def _draw(items: list[Item], row: int, seed: int) -> Item:
    """Return the item of a row, or a collage in its place."""
    generator = np.random.default_rng(seed)
    if generator.random() >= _SHARE:
        return items[row]
    others = [other for other in range(len(items)) if other != row]
    rows = generator.permutation([row, *generator.choice(others, 3, replace=False)])
    collage = _collage([items[i] for i in rows], *generator.uniform(*_INNER, size=2))
    return collage._replace(image_id=items[row].image_id)


def _collage(items: Sequence[Item], y: float, x: float) -> Item:
    """Return four images put around the point (y, x), given in shares of the canvas, row by row."""
    height, width = (max(item.image.shape[side] for item in items) for side in (1, 2))
    middle_y, middle_x = round(y * height), round(x * width)
    canvas = torch.tensor(GREY, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    boxes, labels = [], []
    for quadrant, item in enumerate(items):
        below, right = divmod(quadrant, 2)
        h, w = item.image.shape[1:]
        top = middle_y if below else middle_y - h
        left = middle_x if right else middle_x - w
        piece = v2.functional.crop(item.image, -top, -left, height, width)
        rows, columns = slice(max(top, 0), top + h), slice(max(left, 0), left + w)
        canvas[:, rows, columns] = piece[:, rows, columns]
        moved = as_boxes(item.boxes + torch.tensor([left, top, left, top]), height, width)
        seen = v2.functional.clamp_bounding_boxes(moved).as_subclass(torch.Tensor)
        kept = _area(seen) >= _SEEN * _area(item.boxes)
        boxes.append(seen[kept])
        labels.append(item.labels[kept])
    whole = as_boxes(torch.cat(boxes), height, width)
    kept_boxes, kept = v2.functional.sanitize_bounding_boxes(whole, min_size=1.0)
    scale_x, scale_y = np.mean([item.scale for item in items], axis=0).tolist()
    return items[0]._replace(
        image=canvas,
        boxes=kept_boxes.as_subclass(torch.Tensor),
        labels=torch.cat(labels)[kept],
        scale=(scale_x, scale_y),
    )


def _area(boxes: torch.Tensor) -> torch.Tensor:
    """Of boxes [k, 4]: [k]."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
