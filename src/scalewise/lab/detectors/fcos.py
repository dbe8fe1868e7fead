"""FCOS: fully convolutional one-stage detection (Tian et al., ICCV 2019), as in torchvision."""

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

RADIUS = 1.5  # positives lie at most this many strides from the object's centre, in x and in y
NEAREST = 3  # locations per axis that the radius can reach
# A level takes objects whose farthest edge lies 4 to 8 strides away; the finest level also takes
# smaller ones, the coarsest larger ones.
REACH = (4, 8)


@torch.no_grad()
def assign(grid: Grid, boxes: Tensor, valid: Tensor) -> Tensor:
    """Choose the locations near each object's centre, on the level that fits its size.

    A location that two objects claim goes to the smaller one.

    Args:
        grid: the pyramid's locations.
        boxes: float32 [B, M, 4].
        valid: bool [B, M], False for padding.

    Returns:
        int64 [B, A]: the object of each location, M for none.
    """
    centres, _ = geometry.centre_and_size(boxes)
    indices, eligible = [], []
    start, last = 0, len(grid.shapes) - 1
    for level, (shape, stride) in enumerate(zip(grid.shapes, grid.strides, strict=True)):
        index, _ = nearest_window(centres, shape, stride, NEAREST)  # [B, M, W]
        points = grid.points[index + start]  # [B, M, W, 2]
        distances = geometry.edge_distances(points, boxes[:, :, None])  # [B, M, W, 4]
        off_centre = (points - centres[:, :, None]).abs().amax(-1)
        farthest = distances.amax(-1)
        reach = stride * grid.anchor_scale
        fits = (off_centre < RADIUS * stride) & (distances.amin(-1) > 0)
        if level > 0:
            fits &= farthest > REACH[0] * reach
        if level < last:
            fits &= farthest < REACH[1] * reach
        indices.append(index + start)
        eligible.append(fits & valid[..., None])
        start += shape[0] * shape[1]
    index = torch.cat(indices, dim=-1)  # [B, M, K]
    smallness = -geometry.area(boxes)[..., None].expand_as(index)
    return claim(index, torch.cat(eligible, dim=-1), smallness, grid.points.shape[0])


@once
def cells(grid: Grid) -> Tensor:
    """The square of one stride around each location: float32 [A, 4]."""
    half = grid.spacing[:, None] / 2
    return torch.cat((grid.points - half, grid.points + half), dim=-1)


def decode(deltas: Tensor, grid: Grid) -> Tensor:
    """Boxes [B, A, 4] from edge distances [B, A, 4] in strides; negative ones count as 0."""
    distances = deltas.relu() * grid.spacing[:, None]
    return torch.cat((grid.points - distances[..., :2], grid.points + distances[..., 2:]), dim=-1)


def losses(predictions: Predictions, grid: Grid, batch: Batch) -> AnchorLosses:
    """Focal loss, GIoU and centerness per anchor, to be divided by the number of positives.

    That number is averaged over ranks and at least 1.
    """
    assert predictions.centerness is not None
    owner = assign(grid, batch.boxes, batch.valid)
    targets = gather_targets(
        owner, batch.boxes, batch.labels, cells(grid), predictions.logits.shape[-1]
    )
    centerness = geometry.centerness(geometry.edge_distances(grid.points, targets.boxes))
    giou = geometry.giou_loss(decode(predictions.deltas, grid), targets.boxes)
    off_centre = F.binary_cross_entropy_with_logits(
        predictions.centerness, centerness, reduction="none"
    )
    count = average_over_ranks(targets.positive.sum().float()).clamp(min=1)
    terms = {
        "classification": focal_loss(predictions.logits, targets.labels),
        "box": torch.where(targets.positive, giou, 0.0),
        "centerness": torch.where(targets.positive, off_centre, 0.0),
    }
    return AnchorLosses(terms, (count,), owner, targets.positive)


def normalise(term: str, sums: Tensor, normalisers: tuple[Tensor, ...]) -> Tensor:
    """Divide by the number of positives."""
    return sums / normalisers[0]


# Distances start at one stride: a distance below 0 has no gradient and would stay there.
METHOD = Method(
    "FCOS",
    1,
    ("classification", "box", "centerness"),
    0.6,
    losses,
    normalise,
    decode,
    first_delta=1.0,
)


class FCOS(DenseDetector):
    """An FCOS detector; `DenseDetector` describes the arguments.

    Examples:
        >>> import scalewise as sw
        >>> detector = sw.detectors.fcos("mobilenet_v3_small", num_classes=3, width=16, depth=1)
        >>> detector.terms
        ('classification', 'box', 'centerness')
    """

    method = METHOD
