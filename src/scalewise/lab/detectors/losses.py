"""What the detectors' losses share: targets and the normaliser."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class Targets(NamedTuple):
    """What each of A anchors has to predict.

    Attributes:
        positive: bool [B, A].
        labels: int64 [B, A]; num_classes where not positive.
        boxes: float32 [B, A, 4]; the anchor itself where not positive. So every box is valid, and
            terms can be masked; gathering them would wait for the device.
    """

    positive: Tensor
    labels: Tensor
    boxes: Tensor


def gather_targets(
    owner: Tensor, boxes: Tensor, labels: Tensor, anchors: Tensor, num_classes: int
) -> Targets:
    """Turn assigned objects into targets.

    Args:
        owner: int64 [B, A], index of the object of each anchor, M for none.
        boxes: float32 [B, M, 4]; M may be 0.
        labels: int64 [B, M].
        anchors: float32 [A, 4].
        num_classes: the label of anchors without an object.
    """
    positive = owner < boxes.shape[1]
    # one more row, for "none"; so M = 0 needs no special case
    labels = F.pad(labels, (0, 1), value=num_classes).gather(1, owner)
    boxes = F.pad(boxes, (0, 0, 0, 1)).gather(1, owner[..., None].expand(-1, -1, 4))
    return Targets(positive, labels, torch.where(positive[..., None], boxes, anchors))


def average_over_ranks(values: Tensor) -> Tensor:
    """Mean of `values` over the ranks of the default process group; unchanged without one.

    Gradients are averaged over ranks, so a normaliser averaged over ranks makes data parallel
    training on R ranks equal to one rank with R times the batch.
    """
    if dist.is_available() and dist.is_initialized():
        values = values / dist.get_world_size()
        dist.all_reduce(values)
    return values
