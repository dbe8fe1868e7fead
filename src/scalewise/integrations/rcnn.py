"""The losses of torchvision's Faster and Mask R-CNN by level.

The RPN's by the level of the anchor, the heads' by the level that each region is pooled from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from scalewise.weighting.groups import level_sizes

BETA = 1 / 9  # of the smooth L1 losses


def sum_levels(values: Tensor, level: Tensor, count: int) -> Tensor:
    """Sum k values [k] by their level int64 [k]: [count]. In a fixed order, for repeatable runs."""
    mine = level == torch.arange(count, device=level.device)[:, None]  # [count, k]
    return torch.where(mine, values, 0).sum(1)


def rpn_losses(
    rpn: Any,
    counts: Sequence[int],
    objectness: Tensor,
    deltas: Tensor,
    labels: list[Tensor],
    wanted: list[Tensor],
) -> dict[str, Tensor]:
    """Losses of `RegionProposalNetwork` by level, [n] each; it draws its sample here.

    Args:
        rpn: the model's.
        counts: anchors of each level, for one image.
        objectness: [B x A, 1], image by image.
        deltas: [B x A, 4].
        labels: B tensors [A]: 1 object, 0 background, -1 neither.
        wanted: B tensors [A, 4], regression targets.
    """
    positive, negative = (torch.where(torch.cat(drawn))[0] for drawn in rpn.fg_bg_sampler(labels))
    sample = torch.cat([positive, negative])
    ends = level_sizes(tuple(counts), sample.device).cumsum(0)
    level = torch.bucketize(sample % sum(counts), ends, right=True)  # [k]
    box = F.smooth_l1_loss(
        deltas[positive], torch.cat(wanted)[positive], beta=BETA, reduction="none"
    ).sum(-1)
    score = F.binary_cross_entropy_with_logits(
        objectness.flatten()[sample], torch.cat(labels)[sample], reduction="none"
    )
    n = len(counts)
    return {
        "loss_objectness": sum_levels(score, level, n) / sample.numel(),
        "loss_rpn_box_reg": sum_levels(box, level[: len(positive)], n) / sample.numel(),
    }


def box_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor, level: Tensor, count: int
) -> dict[str, Tensor]:
    """Losses of the box head by level, [count] each.

    Args:
        logits: [R, C] of the R regions of all images.
        deltas: [R, 4 x C].
        labels: int64 [R], 0 for background.
        wanted: [R, 4], regression targets.
        level: int64 [R], that each region is pooled from.
        count: number of levels.
    """
    score = F.cross_entropy(logits, labels, reduction="none")  # [R]
    # masked, not gathered: how many regions are positive is known to the device alone
    rows = torch.arange(len(labels), device=labels.device)
    chosen = deltas.reshape(len(labels), -1, 4)[rows, labels]  # [R, 4]
    box = F.smooth_l1_loss(chosen, wanted, beta=BETA, reduction="none").sum(-1)
    box = torch.where(labels > 0, box, 0)
    return {
        "loss_classifier": sum_levels(score, level, count) / len(labels),
        "loss_box_reg": sum_levels(box, level, count) / len(labels),
    }


def mask_losses(
    logits: Tensor,
    regions: list[Tensor],
    masks: list[Tensor],
    labels: list[Tensor],
    matched: list[Tensor],
    level: Tensor,
    count: int,
) -> dict[str, Tensor]:
    """Loss of the mask head by level, [count].

    Args:
        logits: [R, C, s, s] of the positive regions of all images.
        regions: the regions' boxes [r, 4], per image.
        masks: the objects' masks [k, H, W], per image.
        labels: the objects' labels int64 [k], per image.
        matched: object of each region int64 [r], per image.
        level: int64 [R].
        count: number of levels.
    """
    if not len(logits):
        return {"loss_mask": logits.sum() * logits.new_zeros(count)}
    label = torch.cat([own[at] for own, at in zip(labels, matched, strict=True)])
    wanted = torch.cat(
        [
            project_masks_on_boxes(own, boxes, at, logits.shape[-1])
            for own, boxes, at in zip(masks, regions, matched, strict=True)
        ]
    )
    chosen = logits[torch.arange(len(label), device=label.device), label]  # [R, s, s]
    loss = F.binary_cross_entropy_with_logits(chosen, wanted, reduction="none").mean((1, 2))
    return {"loss_mask": sum_levels(loss, level, count) / len(label)}
