"""Detects objects with an exported file, as its run does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scalewise.lab.detectors.batch import Batch, Detections
from scalewise.lab.detectors.decoding import take_candidates
from scalewise.lab.detectors.nms import suppress
from scalewise.lab.export.facts import ExportFacts
from scalewise.lab.training.building import auto_workers

FORMATS = {".onnx": "onnx", ".pt2": "torch"}
TORCH_METADATA = "scalewise.json"
_BATCH = 8  # images per batch

Compute = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass
class ExportedDetector:
    """A detector from a file.

    Attributes:
        path: The file.
        facts: Its metadata.
        compute: Returns the outputs of the file for images uint8 [B, 3, side, side] and sizes int64
            [B, 2].
        batch_size: Images per batch.
    """

    path: Path
    facts: ExportFacts
    compute: Compute
    batch_size: int = _BATCH

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return self.facts.classes

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in pixels."""
        return tuple(self.facts.strides)

    @property
    def size(self) -> int:
        """Pixels that the longer side of an image is resized to."""
        return self.facts.size

    @property
    def workers(self) -> int:
        """Processes that load images."""
        return auto_workers()

    def detect(self, batch: Batch) -> Detections:
        """The best detections of each image; only `images` and `sizes` of the batch are used."""
        facts = self.facts
        found = self.compute(batch.images, batch.sizes)
        if not facts.nms:
            boxes, scores = found
            best = take_candidates(scores, boxes, facts.anchors, batch.sizes, facts.candidates)
            return suppress(best, facts.score_threshold, facts.nms_iou, facts.max_detections)
        boxes, scores, labels, levels, counts = found
        most = int(counts.max())
        valid = torch.arange(most) < counts[:, None]
        return Detections(
            boxes[:, :most], scores[:, :most], labels[:, :most], levels[:, :most], valid
        )
