"""Non-maximum suppression within each image and class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from scalewise.lab.detectors.batch import Detections

MOST = 2**14  # most boxes in one suppression: on a GPU it keeps a bit for each pair of boxes


class Candidates(NamedTuple):
    """The K boxes of each of B images that enter suppression, level after level.

    Attributes:
        boxes: float32 [B, K, 4], clipped to the image.
        scores: float32 [B, K].
        labels: int64 [B, K].
        levels: int64 [B, K].
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    levels: Tensor


def suppress(
    best: Candidates, score_threshold: float, nms_iou: float, max_detections: int
) -> Detections:
    """Non-maximum suppression of candidates; the arguments are those of `decoding.select`."""
    boxes, score, label, _ = best
    kept = _suppress(boxes, score, label, score > score_threshold, nms_iou)  # [B, K]
    # stable: of two with the same score the one of the finer level comes first
    order = torch.where(kept, score, -1.0).sort(dim=1, descending=True, stable=True).indices
    found = kept.sum(1).clamp(max=max_detections)  # [B]
    order = order[:, : int(found.max())]
    valid = torch.arange(order.shape[1], device=order.device) < found[:, None]
    return pick(best, order, valid)


def pick(best: Candidates, order: Tensor, valid: Tensor) -> Detections:
    """The candidates at places `order` int64 [B, k]; 0 where `valid` bool [B, k] is False."""
    places = order[..., None].expand(-1, -1, 4)
    return Detections(
        torch.where(valid[..., None], best.boxes.gather(1, places), 0.0),
        torch.where(valid, best.scores.gather(1, order), 0.0),
        torch.where(valid, best.labels.gather(1, order), 0),
        torch.where(valid, best.levels.gather(1, order), 0),
        valid,
    )


def _suppress(boxes: Tensor, score: Tensor, label: Tensor, among: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression within each image and class, for the whole batch.

    Args:
        boxes: float32 [B, K, 4].
        score: float32 [B, K].
        label: int64 [B, K].
        among: bool [B, K], the boxes that take part.
        iou: overlap above which the weaker box is dropped.

    Returns:
        bool [B, K], the boxes of `among` that remain.
    """
    image, place = among.nonzero().unbind(1)  # [n]
    kept = torch.zeros_like(among)
    if not len(image):
        return kept
    if len(image) > MOST and len(among) > 1:
        half = len(among) // 2
        parts = (slice(None, half), slice(half, None))
        return torch.cat([_suppress(boxes[p], score[p], label[p], among[p], iou) for p in parts])
    groups = image * (label.max() + 1) + label[image, place]
    survivors = _group_by_group if boxes.device.type == "cpu" else _all_at_once
    keep = survivors(boxes[image, place], score[image, place], groups, iou)
    kept[image[keep], place[keep]] = True
    return kept


def _group_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Indices of the boxes [n, 4] that remain; group by group, as a CPU's time grows with n^2."""
    order = groups.sort(stable=True).indices
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    parts = torch.split(order, sizes)
    return torch.cat([own[nms(boxes[own], scores[own], iou)] for own in parts])


def _all_at_once(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Indices of the boxes [n, 4] that remain; in one call, with the groups moved apart.

    It uses float64, because float32 rounds boxes that are moved far to whole pixels.
    """
    reach = boxes.nan_to_num().max().double() + 1
    keep: Tensor = nms(boxes.double() + (groups * reach)[:, None], scores.double(), iou)
    return keep
