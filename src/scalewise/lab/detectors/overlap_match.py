"""RetinaNet's matching of each anchor with the object that it overlaps most."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.lab.detectors import boxes as geometry
from scalewise.lab.detectors.room import at_once

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4  # anchors between the two are left out of the classification loss


def match_anchors(candidates: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Match each anchor with the object it overlaps most.

    An anchor is positive if the IoU is at least 0.5, or if no anchor overlaps that object more.

    Args:
        candidates: float32 [A, 4], the anchors.
        boxes: float32 [B, M, 4].
        valid: bool [B, M], False for padding.

    Returns:
        int64 [B, A], the object of each anchor, M for none, and bool [B, A], False for anchors that
        are neither object nor background.
    """
    if torch.compiler.is_compiling():
        owner, counted = _compiled_match(candidates, boxes, valid)
        return owner, counted
    return match(candidates, boxes, valid)


@torch.no_grad()
def match(candidates: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`match_anchors` by a loop over as many objects as fit into memory."""
    batch, objects = valid.shape
    shape = (batch, len(candidates))
    best = boxes.new_full(shape, -1.0)
    owner = torch.full(shape, objects, device=boxes.device)
    rescued = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    of_one = batch * len(candidates)  # number of overlaps if each image has one object
    step = max(1, at_once(boxes.device, objects * of_one) // of_one)
    for start in range(0, objects, step):
        here, real = boxes[:, start : start + step], valid[:, start : start + step]
        iou = _overlaps(here, candidates).masked_fill_(~real[..., None], -1.0)  # [B, step, A]
        highest = iou.amax(-1, keepdim=True)
        rescued |= ((iou == highest) & (highest > 0)).any(1)
        overlap, index = iou.max(1)
        owner = torch.where(overlap > best, index + start, owner)
        best = torch.maximum(best, overlap)
    positive = (best >= FOREGROUND_IOU) | rescued
    counted = positive | (best < BACKGROUND_IOU)
    return torch.where(positive, owner, objects), counted


def _overlaps(boxes: Tensor, candidates: Tensor) -> Tensor:
    """`geometry.iou` of boxes [B, M, 4] and candidates [A, 4], to the bit, in less memory.

    Returns:
        float32 [B, M, A].
    """

    def common(low: int) -> Tensor:
        side = torch.minimum(boxes[..., None, low + 2], candidates[:, low + 2])
        return side.sub_(torch.maximum(boxes[..., None, low], candidates[:, low])).clamp_(min=0)

    both = common(0)
    both *= common(1)
    union = geometry.area(boxes)[..., None] + geometry.area(candidates)
    return both.div_(union.sub_(both).clamp_(min=1e-9))


# One operator for the compiler: it would unroll the loop and make a graph per number of objects.
_compiled_match = torch.library.custom_op(
    "scalewise::retinanet_match",
    match,
    mutates_args=(),
    schema="(Tensor candidates, Tensor boxes, Tensor valid) -> (Tensor, Tensor)",
)


@_compiled_match.register_fake
def _matched_shapes(candidates: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    owner = valid.new_empty((len(valid), len(candidates)), dtype=torch.int64)
    return owner, torch.empty_like(owner, dtype=torch.bool)
