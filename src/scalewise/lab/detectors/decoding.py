"""From the head's outputs to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalewise.lab.detectors.batch import Detections
from scalewise.lab.detectors.method import Predictions
from scalewise.lab.detectors.nms import Candidates, suppress


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

    On a GPU there is no loop over images.

    Args:
        predictions: predictions of A anchors.
        boxes: float32 [B, A, 4], decoded.
        counts: number of anchors of each level.
        sizes: int64 [B, 2], (height, width) to clip to.
        score_threshold: scores must be above it.
        nms_iou: overlap above which the weaker box is dropped.
        candidates: largest number of boxes per level and image that enter suppression.
        max_detections: largest number of boxes per image that are returned.
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
    """The best pairs of a box and a class, `most` of each level, from scores [B, A, C]."""
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
