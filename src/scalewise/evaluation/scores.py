"""All figures of a split's detections."""

from __future__ import annotations

from scalewise.data import Split
from scalewise.evaluation.coco import coco_metrics
from scalewise.evaluation.detections import ImageDetections
from scalewise.evaluation.voc import voc_metrics


def score(split: Split, detections: list[ImageDetections]) -> dict[str, float]:
    """COCO's figures, and VOC's where the split is VOC's."""
    metrics = coco_metrics(split, detections)
    if split.format == "voc":
        metrics |= voc_metrics(split, detections)
    return metrics
