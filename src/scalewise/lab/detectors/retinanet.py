"""RetinaNet (Lin et al., ICCV 2017), with torchvision's anchors and thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.lab.detectors import boxes as geometry
from scalewise.lab.detectors.batch import Batch
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.detectors.focal import focal_loss
from scalewise.lab.detectors.grid import Grid, once
from scalewise.lab.detectors.losses import average_over_ranks, gather_targets
from scalewise.lab.detectors.method import AnchorLosses, Method, Predictions
from scalewise.lab.detectors.overlap_match import match_anchors

SCALES = 3  # anchors of 4, 4 * 2^(1/3) and 4 * 2^(2/3) strides
RATIOS = 3  # height / width of 1/2, 1 and 2
ANCHORS = SCALES * RATIOS


@once
def anchors(grid: Grid) -> Tensor:
    """Nine anchors per location, ratio by ratio, each from small to large: float32 [A * 9, 4]."""
    device = grid.points.device
    octave = torch.arange(SCALES, device=device) / SCALES
    height = (torch.arange(RATIOS, device=device) - 1.0).exp2().sqrt()  # [3]
    # whole pixels, as in torchvision
    size = (4 * grid.anchor_scale * grid.spacing[:, None] * octave.exp2()).floor()[
        :, None
    ]  # [A, 1, 3]
    width_height = torch.stack((size / height[:, None], size * height[:, None]), dim=-1)
    # at least one pixel: an anchor of width or height 0 has no box coding and makes gradients NaN
    half = (width_height / 2).round().clamp(min=0.5)  # [A, 3, 3, 2]
    centre = grid.points[:, None, None]
    return torch.cat((centre - half, centre + half), dim=-1).reshape(-1, 4)


def assign(grid: Grid, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`match_anchors` of the grid's anchors [A * 9, 4] with boxes [B, M, 4]."""
    return match_anchors(anchors(grid), boxes, valid)


def decode(deltas: Tensor, grid: Grid) -> Tensor:
    """Boxes [B, A * 9, 4] from offsets and log-ratios [B, A * 9, 4]."""
    return geometry.decode(deltas, anchors(grid))


def losses(predictions: Predictions, grid: Grid, batch: Batch) -> AnchorLosses:
    """Focal loss and L1 of the box coding per anchor, to be divided by the number of positives.

    That number is for the whole batch, averaged over ranks and at least 1. torchvision divides each
    image by its own number, which gives objects in crowded images less weight.
    """
    owner, counted = assign(grid, batch.boxes, batch.valid)
    candidates = anchors(grid)
    targets = gather_targets(
        owner, batch.boxes, batch.labels, candidates, predictions.logits.shape[-1]
    )
    deltas = geometry.encode(targets.boxes, candidates)
    off = (predictions.deltas - deltas).abs().sum(-1)
    count = average_over_ranks(targets.positive.sum().float()).clamp(min=1)
    terms = {
        "classification": torch.where(counted, focal_loss(predictions.logits, targets.labels), 0.0),
        "box": torch.where(targets.positive, off, 0.0),
    }
    return AnchorLosses(terms, (count,), owner, targets.positive)


def normalise(term: str, sums: Tensor, normalisers: tuple[Tensor, ...]) -> Tensor:
    """Divide by the number of positives."""
    return sums / normalisers[0]


METHOD = Method("RetinaNet", ANCHORS, ("classification", "box"), 0.5, losses, normalise, decode)


class RetinaNet(DenseDetector):
    """A RetinaNet detector; `DenseDetector` describes the arguments.

    Examples:
        >>> import scalewise as sw
        >>> detector = sw.detectors.retinanet("mobilenet_v3_small", num_classes=3, width=16)
        >>> detector.terms
        ('classification', 'box')
    """

    method = METHOD
