"""Counts the objects that become too small at an image size, before training starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scalewise.lab.data.split import Split
from scalewise.lab.detectors.atss import assign as assign_atss
from scalewise.lab.detectors.fcos import assign as assign_fcos
from scalewise.lab.detectors.grid import Grid, make_grid
from scalewise.lab.detectors.pyramid import STRIDES
from scalewise.lab.detectors.retinanet import assign as assign_retinanet

SMALL = 4.0  # pixels of the shorter side below which hardly anything is left of an object
SURE = float(STRIDES[0])  # pixels of the shorter side above which an object holds a location
_SHARE = 0.01  # of the objects: if more are small, there is a warning
_LOOKED_AT = 20_000  # most objects whose anchors are sought; of more objects, a regular sample
PAIRS = 2e8  # most pairs of object and anchor to look at, so that matching boxes takes seconds
_AT_ONCE = 2**22  # objects times locations
_CANVAS = 32

ASSIGN: dict[str, Callable[[Grid, Tensor, Tensor], Tensor]] = {
    "atss": assign_atss,
    "fcos": assign_fcos,
    "retinanet": lambda grid, boxes, valid: assign_retinanet(grid, boxes, valid)[0],
}


@dataclass(frozen=True)
class Reach:
    """How many objects of a split are too small at an image size.

    Attributes:
        size: the images' longer side in pixels.
        objects: number of objects without crowd regions.
        under_one: objects whose shorter side is under one pixel; training leaves them out.
        under_four: objects whose shorter side is under four pixels, `under_one` included.
        looked_at: objects whose anchors were sought.
        unreached: objects among these, at least one pixel wide, that get no anchor of any level.
        enough: the least size, a multiple of 32, at which 99 % are wider than the finest stride.
    """

    size: int
    objects: int
    under_one: int
    under_four: int
    looked_at: int
    unreached: int
    enough: int

    def warning(self, split: str) -> str:
        """The warning in one line; empty if there is none."""
        rest = max(self.under_four, self.unreached * self.objects // max(1, self.looked_at))
        if not self.under_one and rest <= _SHARE * self.objects:
            return ""
        of = "" if self.looked_at == self.objects else f" of the {self.looked_at} looked at"
        lost = {
            " are under 1 pixel and left out": self.under_one,
            f" are under {SMALL:g} pixels": self.under_four,
            f"{of} get no anchor on any level": self.unreached,
        }
        counts = ", ".join(f"{count}{what}" for what, count in lost.items() if count)
        return (
            f"{split}: at --size {self.size}, of {self.objects} objects {counts}; "
            f"at --size {self.enough} 99 % would be over {SURE:g} pixels, the finest stride"
        )


def reach(split: Split, size: int, detector: str, anchor_scale: float = 1.0) -> Reach:
    """Count the objects of a split that are too small at a size.

    Args:
        split: The images, with their objects.
        size: Longer side of the resized images in pixels.
        detector: "atss", "fcos" or "retinanet".
        anchor_scale: As in training.
    """
    known = [record for record in split.records if (~record.crowd).any()]
    boxes = np.concatenate(
        [r.boxes[~r.crowd] * np.float32(size / max(r.width, r.height)) for r in known]
        or [np.zeros((0, 4), np.float32)]
    )  # [n, 4], in pixels of the resized images
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(1)
    wanted = np.quantile(size * SURE / np.maximum(shorter, 1e-6), 1 - _SHARE) if len(boxes) else 0
    most = min(_LOOKED_AT, PAIRS / anchor_count(size, detector))
    step = max(1, math.ceil(len(boxes) / most))
    sample = boxes[::step]
    alive = sample[(sample[:, 2:] - sample[:, :2]).min(1) >= 1] if len(sample) else sample
    return Reach(
        size=size,
        objects=len(boxes),
        under_one=int((shorter < 1).sum()),
        under_four=int((shorter < SMALL).sum()),
        looked_at=len(sample),
        unreached=_unreached(torch.from_numpy(alive), size, detector, anchor_scale),
        enough=_CANVAS * math.ceil(float(wanted) / _CANVAS),
    )


def anchor_count(size: int, detector: str) -> int:
    """Number of anchors of all levels; the time to assign one object grows with it."""
    none = torch.zeros(1, 1, 4)
    owner = ASSIGN[detector](canvas_grid(size, 1.0), none, torch.zeros(1, 1, dtype=torch.bool))
    return owner.shape[1]


def canvas_grid(size: int, anchor_scale: float) -> Grid:
    """The locations of the square to which images of this size are padded, on the CPU."""
    canvas = _CANVAS * math.ceil(size / _CANVAS)
    sides = [math.ceil(canvas / stride) for stride in STRIDES]
    return make_grid([(s, s) for s in sides], STRIDES, torch.device("cpu"), anchor_scale)


@torch.no_grad()
def _unreached(boxes: Tensor, size: int, detector: str, anchor_scale: float) -> int:
    """The number of boxes, float32 [n, 4], that get no anchor, each alone in its image."""
    grid = canvas_grid(size, anchor_scale)
    count = 0
    for part in torch.split(boxes, max(1, _AT_ONCE // len(grid.points))):
        valid = torch.ones(len(part), 1, dtype=torch.bool)
        owner = ASSIGN[detector](grid, part[:, None], valid)  # [n, A]
        count += int((owner != 0).all(1).sum())
    return count
