"""Dense detectors whose training step returns its loss per level."""

from scalewise.lab.detectors.atss import atss
from scalewise.lab.detectors.batch import Batch, Detections, pad_objects
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.detectors.fcos import fcos
from scalewise.lab.detectors.retinanet import retinanet
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
