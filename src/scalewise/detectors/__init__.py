"""Dense detectors whose training step returns its loss per level."""

from scalewise.detectors.atss import atss
from scalewise.detectors.batch import Batch, Detections, pad_objects
from scalewise.detectors.detector import DenseDetector
from scalewise.detectors.fcos import fcos
from scalewise.detectors.retinanet import retinanet
from scalewise.detectors.weights import LoadedWeights

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
