"""From the head's outputs to detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from scalewise.lab.detectors.batch import Detections
from scalewise.lab.detectors.method import Predictions

MOST = 2**14  # boxes in one suppression: on a GPU its table has a bit for each pair


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


def select(
    predictions: Predictions,
    boxes: Tensor,
    counts: Sequence[int],
    sizes: Tensor,
    *,
    score_threshold: float,
    nms_iou: float,
    candidates: int,
    max_detections: int,
) -> Detections:
    """The best boxes per level, then non-maximum suppression per image and class over all levels.

    Without a loop over images on a GPU.

    Args:
        predictions: of A anchors.
        boxes: float32 [B, A, 4], decoded.
        counts: anchors of each level.
        sizes: int64 [B, 2], (height, width) to clip to.
        score_threshold: scores must be above it.
        nms_iou: overlap above which the weaker box is dropped.
        candidates: most boxes per level and image that enter suppression.
        max_detections: most boxes per image that leave it.
    """
    best = take_candidates(class_scores(predictions), boxes, counts, sizes, candidates)
    return suppress(best, score_threshold, nms_iou, max_detections)


def class_scores(predictions: Predictions) -> Tensor:
    """Scores float32 [B, A, C] of each anchor and class, 0 to 1."""
    scores = predictions.logits.sigmoid()
    if predictions.centerness is not None:
        scores = (scores * predictions.centerness.sigmoid()[..., None]).sqrt()
    return scores


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, A, 4] cut to their images, whose (height, width) are sizes int64 [B, 2]."""
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # [B, 1, (w, h, w, h)]
    return torch.minimum(boxes.clamp(min=0), limit)


def take_candidates(
    scores: Tensor, boxes: Tensor, counts: Sequence[int], sizes: Tensor, most: int
) -> Candidates:
    """The `most` best pairs of a box and a class of each level, from scores [B, A, C]."""
    classes = scores.shape[-1]
    best_scores, best_index, best_level = [], [], []
    start = 0
    for level, scores_here in enumerate(torch.split(scores, list(counts), dim=1)):
        flat = scores_here.flatten(1)  # [B, A_level * C]
        top, index = flat.topk(min(most, flat.shape[1]), dim=1)
        best_scores.append(top)
        best_index.append(index + start * classes)
        best_level.append(torch.full_like(index, level))
        start += counts[level]
    index = torch.cat(best_index, dim=1)
    anchor = index.div(classes, rounding_mode="floor")
    chosen = boxes.gather(1, anchor[..., None].expand(-1, -1, 4))
    return Candidates(
        clip(chosen, sizes),
        torch.cat(best_scores, dim=1),
        index % classes,
        torch.cat(best_level, dim=1),
    )


def suppress(
    best: Candidates, score_threshold: float, nms_iou: float, max_detections: int
) -> Detections:
    """Non-maximum suppression of candidates; the arguments are those of `select`."""
    boxes, score, label, _ = best
    kept = _suppress(boxes, score, label, score > score_threshold, nms_iou)  # [B, K]
    # stable, so that of two alike the one of the finer level comes first
    order = torch.where(kept, score, -1.0).sort(dim=1, descending=True, stable=True).indices
    found = kept.sum(1).clamp(max=max_detections)  # [B]
    order = order[:, : int(found.max())]
    valid = torch.arange(order.shape[1], device=order.device) < found[:, None]
    return pick(best, order, valid)


def pick(best: Candidates, order: Tensor, valid: Tensor) -> Detections:
    """The candidates at places `order` int64 [B, k], those with `valid` bool [B, k] False as 0."""
    places = order[..., None].expand(-1, -1, 4)
    return Detections(
        torch.where(valid[..., None], best.boxes.gather(1, places), 0.0),
        torch.where(valid, best.scores.gather(1, order), 0.0),
        torch.where(valid, best.labels.gather(1, order), 0),
        torch.where(valid, best.levels.gather(1, order), 0),
        valid,
    )


def _suppress(boxes: Tensor, score: Tensor, label: Tensor, among: Tensor, iou: float) -> Tensor:
    """Non-maximum suppression within each image and class, all in one.

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
    """Indices of the boxes [n, 4] that remain: for a CPU, where time grows with n squared."""
    order = groups.sort(stable=True).indices
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    parts = torch.split(order, sizes)
    return torch.cat([own[nms(boxes[own], scores[own], iou)] for own in parts])


def _all_at_once(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Indices of the boxes [n, 4] that remain: in one call, with the groups moved apart.

    In float64: where float32 is moved far, it rounds to whole pixels.
    """
    reach = boxes.nan_to_num().max().double() + 1
    keep: Tensor = nms(boxes.double() + (groups * reach)[:, None], scores.double(), iou)
    return keep
