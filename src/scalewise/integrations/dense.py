"""The losses of torchvision's dense detectors by level.

Each function repeats its detector's own loss per anchor, and sums it by level. The sum over levels
is the detector's loss, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from scalewise.weighting import split_levels

IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@dataclass(frozen=True)
class Step:
    """What torchvision computes the loss of B images from.

    Attributes:
        counts: anchors of each level; they add up to A.
        targets: B dicts with boxes [k, 4] and labels int64 [k].
        outputs: cls_logits [B, A, C], bbox_regression [B, A, 4] and, for FCOS, bbox_ctrness
            [B, A, 1].
        anchors: B tensors [A, 4].
        matched: B tensors int64 [A]: index of the object, or negative for none.
    """

    counts: Sequence[int]
    targets: list[dict[str, Tensor]]
    outputs: dict[str, Tensor]
    anchors: list[Tensor]
    matched: list[Tensor]


def retinanet_losses(head: Any, step: Step) -> dict[str, Tensor]:
    """Losses of `RetinaNetHead` by level, [n] each."""
    ignored = head.classification_head.BETWEEN_THRESHOLDS
    regression = head.regression_head
    scores, boxes = [], []
    for one, logits, deltas, own, match in zip(
        step.targets,
        step.outputs["cls_logits"],
        step.outputs["bbox_regression"],
        step.anchors,
        step.matched,
        strict=True,
    ):
        positive = torch.where(match >= 0)[0]
        objects = match[positive]
        normaliser = max(1, positive.numel())
        wanted = torch.zeros_like(logits)  # [A, C]
        wanted[positive, one["labels"][objects]] = 1.0
        score = sigmoid_focal_loss(logits, wanted, reduction="none").sum(-1)  # [A]
        scores.append(torch.where(match == ignored, 0, score) / normaliser)
        box = _retinanet_box_loss(
            regression, own[positive], one["boxes"][objects], deltas[positive]
        )
        boxes.append(box.new_zeros(len(match)).index_put((positive,), box) / normaliser)
    images = len(step.targets)
    return {
        "classification": split_levels(torch.stack(scores), step.counts) / images,
        "bbox_regression": split_levels(torch.stack(boxes), step.counts) / max(1, images),
    }


def _retinanet_box_loss(head: Any, anchors: Tensor, boxes: Tensor, deltas: Tensor) -> Tensor:
    """Of k positive anchors, [k]."""
    kind = head._loss_type
    if kind in IOU_LOSSES:
        overlap: Tensor = IOU_LOSSES[kind](head.box_coder.decode_single(deltas, anchors), boxes)
        return overlap
    wanted = head.box_coder.encode_single(boxes, anchors)
    loss = F.l1_loss if kind == "l1" else F.smooth_l1_loss
    return loss(deltas, wanted, reduction="none").sum(-1)


def fcos_losses(head: Any, step: Step) -> dict[str, Tensor]:
    """Losses of `FCOSHead` by level, [n] each."""
    logits = step.outputs["cls_logits"]
    places = torch.stack(step.anchors)  # [B, A, 4]
    labels, boxes = [], []
    for one, match in zip(step.targets, step.matched, strict=True):
        if len(one["labels"]):
            at = match.clip(min=0)
            labels.append(torch.where(match < 0, -1, one["labels"][at]))
            boxes.append(one["boxes"][at])
        else:
            labels.append(torch.full_like(match, -1))
            boxes.append(one["boxes"].new_zeros(len(match), 4))
    label, box = torch.stack(labels), torch.stack(boxes)  # [B, A], [B, A, 4]
    positive = label >= 0
    normaliser = max(1, int(positive.sum()))
    wanted = torch.zeros_like(logits)
    wanted[positive, label[positive]] = 1.0
    score = sigmoid_focal_loss(logits, wanted, reduction="none").sum(-1)  # [B, A]

    found = head.box_coder.decode(step.outputs["bbox_regression"], places)  # [B, A, 4]
    overlap = generalized_box_iou_loss(found[positive], box[positive], reduction="none")  # [k]

    edges = head.box_coder.encode(places, box)[positive]  # [k, 4]
    pairs = (edges[:, [0, 2]], edges[:, [1, 3]])
    middle = torch.stack([p.min(-1)[0] / p.max(-1)[0] for p in pairs]).prod(0).sqrt()  # [k]
    centre = F.binary_cross_entropy_with_logits(
        step.outputs["bbox_ctrness"].squeeze(2)[positive], middle, reduction="none"
    )  # [k]

    def levels(values: Tensor) -> Tensor:
        return split_levels(
            values.new_zeros(label.shape).masked_scatter(positive, values), step.counts
        )

    return {
        "classification": split_levels(score, step.counts) / normaliser,
        "bbox_regression": levels(overlap) / normaliser,
        "bbox_ctrness": levels(centre) / normaliser,
    }


def ssd_losses(model: Any, step: Step) -> dict[str, Tensor]:
    """Losses of `SSD` by level, [n] each.

    Hard negatives are mined over all levels together, as SSD does, and split after.
    """
    logits = step.outputs["cls_logits"]  # [B, A, C]
    boxes, labels, positives = [], [], 0
    for one, deltas, own, match in zip(
        step.targets, step.outputs["bbox_regression"], step.anchors, step.matched, strict=True
    ):
        positive = torch.where(match >= 0)[0]
        objects = match[positive]
        positives += positive.numel()
        wanted = model.box_coder.encode_single(one["boxes"][objects], own[positive])
        box = F.smooth_l1_loss(deltas[positive], wanted, reduction="none").sum(-1)
        boxes.append(box.new_zeros(len(match)).index_put((positive,), box))
        label = torch.zeros(len(match), dtype=one["labels"].dtype, device=match.device)
        label[positive] = one["labels"][objects]
        labels.append(label)
    label = torch.stack(labels)  # [B, A]
    score = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
    score = score.view(label.shape)
    foreground = label > 0
    negatives = model.neg_to_pos_ratio * foreground.sum(1, keepdim=True)
    order = score.detach().masked_fill(foreground, -float("inf")).sort(1, descending=True)[1]
    mined = order.sort(1)[1] < negatives
    normaliser = max(1, positives)
    # where there are too few negatives, mining reaches into the positives, which then count twice
    kept = score * (foreground.to(score.dtype) + mined.to(score.dtype))
    return {
        "bbox_regression": split_levels(torch.stack(boxes), step.counts) / normaliser,
        "classification": split_levels(kept, step.counts) / normaliser,
    }
