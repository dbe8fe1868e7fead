"""ATSS, FCOS and RetinaNet for loops of your own: the names of `scalewise.lab.detectors`."""

from scalewise.lab.detectors import (
    Batch,
    DenseDetector,
    Detections,
    LoadedWeights,
    atss,
    fcos,
    pad_objects,
    retinanet,
)

__all__ = [
    "Batch",
    "DenseDetector",
    "Detections",
    "LoadedWeights",
    "atss",
    "fcos",
    "pad_objects",
    "retinanet",
]
