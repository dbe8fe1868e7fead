"""ATSS, FCOS and RetinaNet for loops of your own: classes that are called like functions."""

from scalewise.lab.detectors.atss import ATSS as atss
from scalewise.lab.detectors.batch import Batch, Detections, pad_objects
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.detectors.fcos import FCOS as fcos
from scalewise.lab.detectors.retinanet import RetinaNet as retinanet
from scalewise.lab.detectors.weights import LoadedWeights

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
