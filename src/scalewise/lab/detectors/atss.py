"""ATSS: adaptive training sample selection (Zhang et al., CVPR 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.lab.detectors import boxes as geometry
from scalewise.lab.detectors.batch import Batch
from scalewise.lab.detectors.claims import claim, nearest_window
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.detectors.focal import focal_loss
from scalewise.lab.detectors.grid import Grid, once
from scalewise.lab.detectors.losses import average_over_ranks, gather_targets
from scalewise.lab.detectors.method import AnchorLosses, Method, Predictions

ANCHOR_SIZE = 8  # side of the one square anchor per location, in strides
CANDIDATES = 9  # nearest locations per level that compete for an object
BOX_WEIGHT = 2.0


@once
def anchors(grid: Grid) -> Tensor:
    """The square anchor of each location: float32 [A, 4]."""
    half = grid.spacing[:, None] * (ANCHOR_SIZE * grid.anchor_scale / 2)
    return torch.cat((grid.points - half, grid.points + half), dim=-1)


@torch.no_grad()
def assign(grid: Grid, boxes: Tensor, valid: Tensor) -> Tensor:
    """Choose the positive anchors of each object by the statistics of its nearest anchors.

    On each level the 9 anchors whose centres are nearest are candidates. A candidate is positive if
    its centre lies inside the box and its IoU is at least the mean plus the standard deviation of
    the candidates' IoUs. An anchor that two objects claim goes to the one with the higher IoU.

    Args:
        grid: the pyramid's locations.
        boxes: float32 [B, M, 4].
        valid: bool [B, M], False for padding.

    Returns:
        int64 [B, A]: the object of each anchor, M for none.
    """
    centres, _ = geometry.centre_and_size(boxes)
    candidates, start = [], 0
    for shape, stride in zip(grid.shapes, grid.strides, strict=True):
        index, distance = nearest_window(centres, shape, stride, CANDIDATES)  # [B, M, W]
        # stable: of two locations at the same distance the first wins, on every device
        order = distance.sort(dim=-1, stable=True).indices[..., :CANDIDATES]
        candidates.append(index.gather(-1, order) + start)
        start += shape[0] * shape[1]
    index = torch.cat(candidates, dim=-1)  # [B, M, K]
    iou = geometry.iou(anchors(grid)[index], boxes[:, :, None])  # [B, M, K]
    mean = iou.mean(-1, keepdim=True)
    # not Tensor.std, which warns about a batch without objects
    variance = (iou - mean).square().sum(-1, keepdim=True) / (iou.shape[-1] - 1)
    threshold = mean + variance.sqrt()
    inside = geometry.edge_distances(grid.points[index], boxes[:, :, None]).amin(-1) > 0.01
    return claim(index, (iou >= threshold) & inside & valid[..., None], iou, grid.points.shape[0])


def decode(deltas: Tensor, grid: Grid) -> Tensor:
    """Boxes [B, A, 4] from deltas [B, A, 4]: units are 0.1 for offsets, 0.2 for log-ratios."""
    scaled = torch.cat((deltas[..., :2] * 0.1, deltas[..., 2:] * 0.2), dim=-1)
    return geometry.decode(scaled, anchors(grid))


def losses(predictions: Predictions, grid: Grid, batch: Batch) -> AnchorLosses:
    """Focal loss, GIoU weighted by centerness, and centerness, per anchor.

    The normalisers are the number of positives and the sum of their centerness, both averaged over
    ranks and at least 1.
    """
    assert predictions.centerness is not None
    owner = assign(grid, batch.boxes, batch.valid)
    targets = gather_targets(
        owner, batch.boxes, batch.labels, anchors(grid), predictions.logits.shape[-1]
    )
    centerness = geometry.centerness(geometry.edge_distances(grid.points, targets.boxes))
    centerness = torch.where(targets.positive, centerness, 0.0)  # [B, A]
    giou = geometry.giou_loss(decode(predictions.deltas, grid), targets.boxes)
    off_centre = F.binary_cross_entropy_with_logits(
        predictions.centerness, centerness, reduction="none"
    )
    sums = torch.stack((targets.positive.sum().float(), centerness.sum()))
    normalisers = average_over_ranks(sums).clamp(min=1)
    terms = {
        "classification": focal_loss(predictions.logits, targets.labels),
        "box": giou * centerness,
        "centerness": torch.where(targets.positive, off_centre, 0.0),
    }
    return AnchorLosses(terms, tuple(normalisers), owner, targets.positive)


def normalise(term: str, sums: Tensor, normalisers: tuple[Tensor, ...]) -> Tensor:
    """Divide the box loss by the summed centerness, other terms by the number of positives."""
    count, weight = normalisers
    return sums * (BOX_WEIGHT / weight if term == "box" else 1 / count)


METHOD = Method("ATSS", 1, ("classification", "box", "centerness"), 0.6, losses, normalise, decode)


class ATSS(DenseDetector):
    """An ATSS detector; `DenseDetector` describes the arguments.

    Examples:
        >>> import scalewise as sw
        >>> detector = sw.detectors.atss("mobilenet_v3_small", num_classes=3, width=16, depth=1)
        >>> detector.terms
        ('classification', 'box', 'centerness')
    """

    method = METHOD
