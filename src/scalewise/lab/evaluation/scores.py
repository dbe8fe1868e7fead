"""All figures of a split's detections."""

from __future__ import annotations

from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.coco_ap import coco_metrics
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.voc_ap import voc_metrics


def score(split: Split, detections: list[ImageDetections]) -> dict[str, float]:
    """COCO's figures, and VOC's where the split is VOC's."""
    metrics = coco_metrics(split, detections)
    if split.format == "voc":
        metrics |= voc_metrics(split, detections)
    return metrics
