"""All metrics of the detections on a split."""

from __future__ import annotations

from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.coco_ap import coco_metrics
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.voc_ap import voc_metrics


def score(split: Split, detections: list[ImageDetections]) -> dict[str, float]:
    """The COCO metrics, and the VOC metrics too if the split is in VOC format."""
    metrics = coco_metrics(split, detections)
    if split.format == "voc":
        metrics |= voc_metrics(split, detections)
    return metrics
