"""Finds out which level of the pyramid each object trains, with the detector's own assigner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.detectors.grid import Grid
from scalewise.lab.detectors.pyramid import STRIDES, level_names
from scalewise.lab.training.reach import ASSIGN, canvas_grid

_IMAGES_AT_ONCE = 8
_SIDES, _DRAWS = 48, 6  # sizes of the squares that are tried, and positions for each size
_AT_ONCE = 2**21  # limit for squares times locations in one call


@dataclass(frozen=True)
class Assigned:
    """What the assigner does with the objects of some images, without crowd regions.

    Attributes:
        images: Number of images.
        boxes: float32 [n, 4], in pixels of the original images.
        labels: int64 [n].
        positives: int64 [n, levels], the positives of each object on each level, finest level
            first; 0 for an object that is under one pixel wide or high after resizing.
    """

    images: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]

    @property
    def level(self) -> npt.NDArray[np.int64]:
        """int64 [n], the level with the most positives of each object; -1 if it has none."""
        best: npt.NDArray[np.int64] = self.positives.argmax(1)
        return np.where(self.positives.any(1), best, -1)


@dataclass(frozen=True)
class LevelRange:
    """The squares that get most of their positives on one level of the pyramid.

    Attributes:
        name: Name of the level: "P3", "P4", ...
        low: Smallest side of these squares, in pixels of the resized image.
        high: Side at which the range ends, in the same pixels; infinite for the last level.
    """

    name: str
    low: float
    high: float


def fitted(record: ImageRecord, size: int) -> npt.NDArray[np.float32]:
    """The boxes of an image after resizing, without crowd regions.

    Args:
        record: The image.
        size: Longer side of the resized image in pixels.

    Returns:
        float32 [k, 4] in pixels of the resized image.
    """
    factor = size / max(record.width, record.height)
    width, height = (max(1, round(side * factor)) for side in (record.width, record.height))
    scale = np.array([width / record.width, height / record.height] * 2, np.float32)
    return record.boxes[~record.crowd] * scale


@torch.no_grad()
def assign_objects(
    records: Sequence[ImageRecord],
    size: int,
    detector: str,
    anchor_scale: float,
    advance: Callable[[int], None] = lambda images: None,
) -> Assigned:
    """Run a detector's assigner on the objects of images. The network itself does not run.

    Args:
        records: The images.
        size: Longer side of the resized images in pixels.
        detector: "atss", "fcos" or "retinanet".
        anchor_scale: Anchor scale, as in training.
        advance: Called with the number of images in each part that is done.
    """
    grid = canvas_grid(size, anchor_scale)
    counts = []
    for start in range(0, len(records), _IMAGES_AT_ONCE):
        part = [fitted(r, size) for r in records[start : start + _IMAGES_AT_ONCE]]
        counts += _positives(part, grid, detector)
        advance(len(part))
    empty = np.zeros((0, len(STRIDES)), np.int64)
    kept = [(r.boxes[~r.crowd], r.labels[~r.crowd]) for r in records]
    return Assigned(
        images=len(records),
        boxes=np.concatenate([boxes for boxes, _ in kept] or [np.zeros((0, 4), np.float32)]),
        labels=np.concatenate([labels for _, labels in kept] or [np.zeros(0, np.int64)]),
        positives=np.concatenate([*counts, empty]),
    )


def _positives(
    images: Sequence[npt.NDArray[np.float32]], grid: Grid, detector: str
) -> list[npt.NDArray[np.int64]]:
    """Positives by object and level, int64 [k, levels] for each image."""
    most = max(map(len, images))
    boxes = torch.zeros(len(images), most, 4)
    valid = torch.zeros(len(images), most, dtype=torch.bool)
    for place, own in enumerate(images):
        boxes[place, : len(own)] = torch.from_numpy(own)
        valid[place, : len(own)] = torch.from_numpy((own[:, 2:] - own[:, :2]).min(1) >= 1)
    owner = ASSIGN[detector](grid, boxes, valid)  # [B, A], index of the object, or `most` for none
    counts = torch.stack(
        [
            torch.zeros(len(images), most + 1, dtype=torch.int64).scatter_add_(
                1, level, torch.ones_like(level)
            )
            for level in _by_level(owner, grid)
        ],
        dim=-1,
    ).numpy()
    return [counts[place, : len(own)] for place, own in enumerate(images)]


def _by_level(owner: Tensor, grid: Grid) -> tuple[Tensor, ...]:
    """Split [B, A] into levels; a location may have several anchors."""
    anchors = owner.shape[1] // len(grid.points)
    parts: tuple[Tensor, ...] = torch.split(
        owner, [count * anchors for count in grid.counts], dim=1
    )
    return parts


@torch.no_grad()
def level_ranges(size: int, detector: str, anchor_scale: float) -> tuple[LevelRange, ...]:
    """Find by trial for which squares each level gives most of the positives.

    Squares of many sizes are placed at random on the canvas, each one alone.

    Args:
        size: Longer side of the resized images in pixels.
        detector: "atss", "fcos" or "retinanet".
        anchor_scale: Anchor scale, as in training.

    Returns:
        The levels that have such squares, finest level first.
    """
    grid = canvas_grid(size, anchor_scale)
    sides = np.geomspace(4, size, _SIDES)
    side = torch.from_numpy(np.repeat(sides, _DRAWS)).float()[:, None]
    corner = torch.rand(len(side), 2, generator=torch.Generator().manual_seed(0)) * (size - side)
    boxes = torch.cat((corner, corner + side), dim=1)
    counts = []
    for part in torch.split(boxes, max(1, _AT_ONCE // len(grid.points))):
        owner = ASSIGN[detector](grid, part[:, None], torch.ones(len(part), 1, dtype=torch.bool))
        counts.append(torch.stack([(o == 0).sum(1) for o in _by_level(owner, grid)], dim=1))
    summed = torch.cat(counts).reshape(_SIDES, _DRAWS, -1).sum(1).numpy()  # [sides, levels]
    best = np.where(summed.any(1), summed.argmax(1), -1)
    found = []
    for level, name in enumerate(level_names()):
        where = np.flatnonzero(best == level)
        if len(where) and where[0] < _SIDES - 1:  # more than the one square that fills the canvas
            low, high = sides[where[0]], sides[min(where[-1] + 1, _SIDES - 1)]
            found.append(LevelRange(name, float(low), float(high)))
    if found:
        found[-1] = LevelRange(found[-1].name, found[-1].low, math.inf)
    return tuple(found)
