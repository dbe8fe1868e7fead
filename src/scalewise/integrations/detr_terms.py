"""What each query adds to the loss of `transformers`' detectors, for statistics.

Each function repeats one term of a criterion for the queries of one decoder layer, without its
final sum; `num_boxes` is the criterion's normaliser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Matched:
    """The M queries of a batch that have an object.

    Attributes:
        at: image and query int64 [M] each.
        labels: int64 [M], of their objects.
        boxes: floating [M, 4], of their objects, as the criterion has them: x, y of the centre,
            width and height, relative to the image.
    """

    at: tuple[Tensor, Tensor]
    labels: Tensor
    boxes: Tensor


ClassTerm = Callable[[Any, dict[str, Tensor], Matched, float], Tensor]  # floating [B, Q]


def cross_entropy(
    criterion: Any, outputs: dict[str, Tensor], matched: Matched, num_boxes: float
) -> Tensor:
    """The class loss of DETR, YOLOS and Table Transformer, divided by the sum of class weights."""
    logits = outputs["logits"].float()
    wanted = torch.full(logits.shape[:2], criterion.num_classes, device=logits.device)
    wanted[matched.at] = matched.labels
    weights: Tensor = criterion.empty_weight
    each = F.cross_entropy(logits.transpose(1, 2), wanted, weights, reduction="none")
    return each / weights[wanted].sum()


def focal(criterion: Any, outputs: dict[str, Tensor], matched: Matched, num_boxes: float) -> Tensor:
    """The class loss of Conditional, Deformable and DAB-DETR."""
    logits = outputs["logits"].float()
    wanted = _one_hot(logits, matched)
    score = logits.sigmoid()
    right = torch.where(wanted > 0, score, 1 - score)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * (1 - right) ** 2
    alpha = criterion.focal_alpha
    if alpha >= 0:
        each = each * torch.where(wanted > 0, alpha, 1 - alpha)
    return each.sum(-1) / num_boxes


def varifocal(
    criterion: Any, outputs: dict[str, Tensor], matched: Matched, num_boxes: float
) -> Tensor:
    """The class loss of RT-DETR and D-FINE."""
    logits = outputs["logits"].float()
    wanted = _one_hot(logits, matched, overlaps(outputs, matched)[0])
    elsewhere = criterion.alpha * logits.sigmoid() ** criterion.gamma
    weight = elsewhere * (1 - _one_hot(logits, matched)) + wanted
    return _entropy(logits, wanted, weight) / num_boxes


def matching_aware(
    criterion: Any, outputs: dict[str, Tensor], matched: Matched, num_boxes: float
) -> Tensor:
    """The class loss of DEIMv2."""
    logits = outputs["logits"].float()
    wanted = _one_hot(logits, matched, overlaps(outputs, matched)[0] ** criterion.gamma)
    here = _one_hot(logits, matched)
    alpha = 1.0 if criterion.mal_alpha is None else criterion.mal_alpha
    weight = alpha * logits.sigmoid() ** criterion.gamma * (1 - here) + here
    return _entropy(logits, wanted, weight) / num_boxes


def overlap_aware(
    criterion: Any, outputs: dict[str, Tensor], matched: Matched, num_boxes: float
) -> Tensor:
    """The class loss of LW-DETR and RF-DETR."""
    logits = outputs["logits"].float()
    score, place = logits.sigmoid(), (*matched.at, matched.labels)
    alpha = criterion.focal_alpha
    quality = score[place] ** alpha * overlaps(outputs, matched)[0] ** (1 - alpha)
    quality = quality.clamp(min=0.01)
    positive = _one_hot(logits, matched, quality)
    negative = (score**2).index_put(place, 1 - quality)
    each = positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)
    return -each.sum(-1) / num_boxes


def box_terms(
    outputs: dict[str, Tensor], matched: Matched, num_boxes: float
) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 - generalised IoU of the matched queries' boxes, [M] each."""
    found = outputs["pred_boxes"][matched.at].float()
    distance = (found - matched.boxes).abs().sum(-1)
    return distance / num_boxes, (1 - overlaps(outputs, matched)[1]) / num_boxes


def overlaps(outputs: dict[str, Tensor], matched: Matched) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of the matched queries' boxes with their objects', [M] each."""
    one, other = _corners(outputs["pred_boxes"][matched.at].float()), _corners(matched.boxes)
    common = _area(torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:]))
    union = _area(one[:, :2], one[:, 2:]) + _area(other[:, :2], other[:, 2:]) - common
    hull = _area(torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:]))
    iou = common / union
    return iou, iou - (hull - union) / hull


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)


def _corners(boxes: Tensor) -> Tensor:
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def _one_hot(logits: Tensor, matched: Matched, values: Tensor | None = None) -> Tensor:
    """`values` (else 1) at the class of each matched query's object, 0 elsewhere: [B, Q, C]."""
    filling = logits.new_ones(()) if values is None else values
    return torch.zeros_like(logits).index_put((*matched.at, matched.labels), filling)


def _entropy(logits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="none").sum(-1)
