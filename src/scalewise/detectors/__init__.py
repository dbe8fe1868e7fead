"""Dense detectors whose training step returns its loss per level."""

from scalewise.detectors.atss import atss
from scalewise.detectors.backbone import LoadedWeights
from scalewise.detectors.batch import Batch, Detections
from scalewise.detectors.detector import DenseDetector

__all__ = ["Batch", "DenseDetector", "Detections", "LoadedWeights", "atss"]
