"""Scores detections: the metrics of COCO and VOC."""

from __future__ import annotations

from scalewise.lab.evaluation.coco_ap import coco_metrics
from scalewise.lab.evaluation.coco_tables import coco_results, coco_truth
from scalewise.lab.evaluation.detections import ImageDetections, to_original
from scalewise.lab.evaluation.voc_ap import voc_metrics

__all__ = [
    "ImageDetections",
    "coco_metrics",
    "coco_results",
    "coco_truth",
    "to_original",
    "voc_metrics",
]
