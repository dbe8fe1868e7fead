"""RetinaNet (Lin et al., ICCV 2017), with the anchors and thresholds of torchvision's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from scalewise.lab.detectors import boxes as geometry
from scalewise.lab.detectors.batch import Batch
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.detectors.grid import Grid, once
from scalewise.lab.detectors.losses import (
    average_over_ranks,
    focal_loss,
    gather_targets,
)
from scalewise.lab.detectors.method import AnchorLosses, Method, Predictions
from scalewise.lab.detectors.room import at_once
from scalewise.weighting.groups import Grouping

SCALES = 3  # anchors of 4, 4 * 2^(1/3) and 4 * 2^(2/3) strides
RATIOS = 3  # height / width of 1/2, 1 and 2
ANCHORS = SCALES * RATIOS
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4  # anchors between the two are left out of the classification loss


@once
def anchors(grid: Grid) -> Tensor:
    """Nine anchors per location, ratio by ratio, each from small to large: float32 [A * 9, 4]."""
    device = grid.points.device
    octave = torch.arange(SCALES, device=device) / SCALES
    height = (torch.arange(RATIOS, device=device) - 1.0).exp2().sqrt()  # [3]
    # whole pixels, as torchvision's
    size = (4 * grid.anchor_scale * grid.spacing[:, None] * octave.exp2()).floor()[
        :, None
    ]  # [A, 1, 3]
    width_height = torch.stack((size / height[:, None], size * height[:, None]), dim=-1)
    # at least a pixel: an anchor without a side has no box coding, and poisons the gradient
    half = (width_height / 2).round().clamp(min=0.5)  # [A, 3, 3, 2]
    centre = grid.points[:, None, None]
    return torch.cat((centre - half, centre + half), dim=-1).reshape(-1, 4)


def assign(grid: Grid, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Match each anchor with the object it overlaps most.

    It is positive from an IoU of 0.5 on, and where no anchor overlaps that object more.

    Args:
        grid: the pyramid's locations.
        boxes: float32 [B, M, 4].
        valid: bool [B, M], False for padding.

    Returns:
        int64 [B, A * 9], the object of each anchor, M for none, and bool [B, A * 9], False for
        anchors that are neither object nor background.
    """
    if torch.compiler.is_compiling():
        owner, counted = _compiled_match(anchors(grid), boxes, valid)
        return owner, counted
    return match(anchors(grid), boxes, valid)


@torch.no_grad()
def match(candidates: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`assign` for any anchors, float32 [A, 4]: a loop over as many objects as fit into memory."""
    batch, objects = valid.shape
    shape = (batch, len(candidates))
    best = boxes.new_full(shape, -1.0)
    owner = torch.full(shape, objects, device=boxes.device)
    rescued = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    of_one = batch * len(candidates)  # overlaps of one object an image
    step = max(1, at_once(boxes.device, objects * of_one) // of_one)
    for start in range(0, objects, step):
        here, real = boxes[:, start : start + step], valid[:, start : start + step]
        iou = _overlaps(here, candidates).masked_fill_(~real[..., None], -1.0)  # [B, step, A * 9]
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


# One operator to the compiler, which would unroll the loop: another graph for each object count.
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


def decode(deltas: Tensor, grid: Grid) -> Tensor:
    """Boxes [B, A * 9, 4] from offsets and log-ratios [B, A * 9, 4]."""
    return geometry.decode(deltas, anchors(grid))


def losses(predictions: Predictions, grid: Grid, batch: Batch) -> AnchorLosses:
    """Focal loss and L1 of the box coding per anchor, to be divided by the number of positives.

    That number is of the whole batch, averaged over ranks and at least 1. torchvision divides image
    by image, which gives the objects of crowded images less weight.
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


def retinanet(
    backbone: str = "mobilenet_v2",
    num_classes: int = 20,
    weights: str | Path | None = None,
    width: int = 256,
    depth: int = 4,
    freeze_bn: bool | None = None,
    freeze_stem: bool | None = None,
    anchor_scale: float = 1.0,
    grouping: Grouping | None = None,
    object_power: float = 0.0,
) -> DenseDetector:
    """A RetinaNet detector; the arguments are those of `DenseDetector`.

    Examples:
        >>> import scalewise as sw
        >>> detector = sw.detectors.retinanet("mobilenet_v3_small", num_classes=3, width=16)
        >>> detector.terms
        ('classification', 'box')
    """
    return DenseDetector(
        METHOD,
        backbone,
        num_classes,
        weights,
        width,
        depth,
        freeze_bn,
        freeze_stem,
        anchor_scale,
        grouping,
        object_power,
    )
