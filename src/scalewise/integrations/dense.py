"""The losses of torchvision's dense detectors per anchor, and the group of each anchor's object.

Each loss function computes the loss of its detector per anchor, with the detector's normaliser: the
sum over all anchors is the detector's loss, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

from scalewise.weighting import split_levels, sum_groups
from scalewise.weighting.groups import level_sizes

IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@dataclass(frozen=True)
class Step:
    """The values from which torchvision computes the loss of B images.

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


def retinanet_terms(head: Any, step: Step) -> dict[str, Tensor]:
    """Losses of `RetinaNetHead` per anchor, [B, A] each."""
    ignored = head.classification_head.BETWEEN_THRESHOLDS
    regression = head.regression_head
    images = max(1, len(step.targets))
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
        normaliser = max(1, positive.numel()) * images
        wanted = torch.zeros_like(logits)  # [A, C]
        wanted[positive, one["labels"][objects]] = 1.0
        score = sigmoid_focal_loss(logits, wanted, reduction="none").sum(-1)  # [A]
        scores.append(torch.where(match == ignored, 0, score) / normaliser)
        box = _retinanet_box_loss(
            regression, own[positive], one["boxes"][objects], deltas[positive]
        )
        boxes.append(box.new_zeros(len(match)).index_put((positive,), box) / normaliser)
    return {"classification": torch.stack(scores), "bbox_regression": torch.stack(boxes)}


def _retinanet_box_loss(head: Any, anchors: Tensor, boxes: Tensor, deltas: Tensor) -> Tensor:
    """The box loss of k positive anchors, [k]."""
    kind = head._loss_type
    if kind in IOU_LOSSES:
        overlap: Tensor = IOU_LOSSES[kind](head.box_coder.decode_single(deltas, anchors), boxes)
        return overlap
    wanted = head.box_coder.encode_single(boxes, anchors)
    loss = F.l1_loss if kind == "l1" else F.smooth_l1_loss
    return loss(deltas, wanted, reduction="none").sum(-1)


def fcos_terms(head: Any, step: Step) -> dict[str, Tensor]:
    """Losses of `FCOSHead` per location, [B, A] each."""
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

    def everywhere(values: Tensor) -> Tensor:
        spread = values.new_zeros(label.shape).masked_scatter(positive, values)
        return spread / normaliser

    return {
        "classification": score / normaliser,
        "bbox_regression": everywhere(overlap),
        "bbox_ctrness": everywhere(centre),
    }


def ssd_terms(model: Any, step: Step) -> dict[str, Tensor]:
    """Losses of `SSD` per anchor, [B, A] each.

    Hard negatives are mined over all anchors of an image together, as SSD does.
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
    # if there are too few negatives, mining also takes positives, which then count twice
    kept = score * (foreground.to(score.dtype) + mined.to(score.dtype))
    return {
        "bbox_regression": torch.stack(boxes) / normaliser,
        "classification": kept / normaliser,
    }


def level_ids(counts: Sequence[int], device: torch.device) -> Tensor:
    """The level of each anchor, int64 [A]."""
    ends = level_sizes(tuple(counts), device).cumsum(0)
    return torch.bucketize(torch.arange(sum(counts), device=device), ends, right=True)


def anchor_groups(step: Step, objects: Sequence[Tensor] | None, groups: int) -> Tensor:
    """The group of each anchor's object.

    Args:
        step: what the loss is computed from.
        objects: B tensors int64 [k], the groups of the objects; None takes the anchors' levels.
        groups: number n of groups.

    Returns:
        int64 [B, A]; n for an anchor without an object.
    """
    matched = torch.stack(step.matched)  # [B, A]
    if objects is None:
        return torch.where(matched < 0, groups, level_ids(step.counts, matched.device))
    rows = zip(objects, matched, strict=True)
    return torch.stack([groups_at(own, match, groups) for own, match in rows])


def groups_at(groups_of_objects: Tensor, matched: Tensor, none: int) -> Tensor:
    """The groups of the objects at int64 indices of any shape; `none` at a negative one."""
    padded = F.pad(groups_of_objects, (0, 1), value=none)  # where there are no objects at all
    return torch.where(matched < 0, none, padded[matched.clamp(min=0)])


def sum_by_group(
    terms: Mapping[str, Tensor], ids: Tensor, groups: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Sum losses per anchor by the group of the anchor's object.

    Args:
        terms: floating [B, A] by name.
        ids: int64 [B, A], the group of each anchor; `groups` for none.
        groups: number n of groups.

    Returns:
        The sums, float32 [n + 1] by name, with the background last; and the number of positives of
        each group, float32 [n].
    """
    wide = [torch.promote_types(values.dtype, torch.float32) for values in terms.values()]
    values = [values.to(dtype) for values, dtype in zip(terms.values(), wide, strict=True)]
    positives = (ids < groups).to(values[0].dtype)
    sums = sum_groups(torch.stack([*values, positives]), ids, groups)  # [terms + 1, n + 1]
    return dict(zip(terms, sums[:-1], strict=True)), sums[-1, :-1]


def sum_by_level(terms: Mapping[str, Tensor], counts: Sequence[int]) -> dict[str, Tensor]:
    """Sum losses per anchor [B, A] by the anchor's level: float32 [n] by name."""
    return {name: split_levels(values, counts) for name, values in terms.items()}
