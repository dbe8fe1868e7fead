"""Geometry of boxes given as (x1, y1, x2, y2) pixels; all functions broadcast over leading axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The largest log-ratio of sizes that is decoded, so that an untrained head does not overflow.
MAX_LOG_RATIO = math.log(1000 / 16)


def area(boxes: Tensor) -> Tensor:
    """Area in square pixels: [..., 4] -> [...]; 0 if a right or bottom edge comes first."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas [...] of the intersection and of the union of boxes [..., 4]."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    size = (high - low).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    return intersection, area(a) + area(b) - intersection


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [...] in 0..1 of boxes [..., 4]; 0 where both boxes are empty."""
    intersection, union = intersection_and_union(a, b)
    return intersection / union.clamp(min=1e-9)


def giou_loss(predicted: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU [...] in 0..2 of boxes [..., 4] (Rezatofighi et al., CVPR 2019)."""
    intersection, union = intersection_and_union(predicted, target)
    low = torch.minimum(predicted[..., :2], target[..., :2])
    high = torch.maximum(predicted[..., 2:], target[..., 2:])
    size = high - low
    hull = size[..., 0] * size[..., 1]
    return 1 - intersection / (union + eps) + (hull - union) / (hull + eps)


def edge_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Signed distances from points [..., 2] to the left, top, right and bottom edge: [..., 4].

    All are positive exactly where the point lies strictly inside its box [..., 4].
    """
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def centerness(distances: Tensor) -> Tensor:
    """Centerness [...] in 0..1 from positive edge distances [..., 4] (Tian et al., ICCV 2019)."""
    low = torch.minimum(distances[..., :2], distances[..., 2:])
    high = torch.maximum(distances[..., :2], distances[..., 2:])
    return (low / high).prod(-1).sqrt()


def centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (x, y) and size (w, h), each [..., 2], of boxes [..., 4]."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets and log-ratios [..., 4] of boxes [..., 4] from anchors [..., 4], as in R-CNN."""
    centre, size = centre_and_size(boxes)
    anchor_centre, anchor_size = centre_and_size(anchors)
    return torch.cat(((centre - anchor_centre) / anchor_size, (size / anchor_size).log()), dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., 4] from offsets and log-ratios [..., 4] of anchors [..., 4]."""
    anchor_centre, anchor_size = centre_and_size(anchors)
    centre = anchor_centre + deltas[..., :2] * anchor_size
    half = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * anchor_size / 2
    return torch.cat((centre - half, centre + half), dim=-1)
