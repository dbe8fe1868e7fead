"""From the head's outputs to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms

from scalewise.detectors.batch import Detections
from scalewise.detectors.method import Predictions


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
    scores = predictions.logits.sigmoid()  # [B, A, C]
    if predictions.centerness is not None:
        scores = (scores * predictions.centerness.sigmoid()[..., None]).sqrt()
    classes = scores.shape[-1]
    best_scores, best_index, best_level = [], [], []
    start = 0
    for level, scores_here in enumerate(torch.split(scores, list(counts), dim=1)):
        flat = scores_here.flatten(1)  # [B, A_level * C]
        top, index = flat.topk(min(candidates, flat.shape[1]), dim=1)
        best_scores.append(top)
        best_index.append(index + start * classes)
        best_level.append(torch.full_like(index, level))
        start += counts[level]
    score = torch.cat(best_scores, dim=1)  # [B, K]
    index = torch.cat(best_index, dim=1)
    level_of = torch.cat(best_level, dim=1)
    anchor = index.div(classes, rounding_mode="floor")
    label = index % classes
    boxes = boxes.gather(1, anchor[..., None].expand(-1, -1, 4))
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # [B, 1, (w, h, w, h)]
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    kept = []
    for i in range(len(score)):
        above = (score[i] > score_threshold).nonzero()[:, 0]
        keep = batched_nms(boxes[i, above], score[i, above], label[i, above], nms_iou)
        keep = above[keep[:max_detections]]
        kept.append((boxes[i, keep], score[i, keep], label[i, keep], level_of[i, keep]))
    padded = [pad_sequence(list(column), batch_first=True) for column in zip(*kept, strict=True)]
    lengths = torch.tensor([len(row[1]) for row in kept], device=score.device)
    valid = torch.arange(padded[1].shape[1], device=score.device) < lengths[:, None]
    return Detections(padded[0], padded[1], padded[2], padded[3], valid)
