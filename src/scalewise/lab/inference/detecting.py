"""Detections of all images of a split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scalewise.lab.data.dataset import DetectionDataset
from scalewise.lab.data.loader import make_loader
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation import ImageDetections, to_original
from scalewise.lab.inference.trained import Detecting


def detect_all(run: Detecting, split: Split) -> Iterator[ImageDetections]:
    """Yield the detections of every image of a split, in the order of the split."""
    dataset = DetectionDataset(split, run.size, augment=False)
    for batch in make_loader(dataset, run.batch_size, shuffle=False, workers=run.workers):
        yield from to_original(run.detect(batch), batch)


def unused(path: Path) -> Path:
    """Return the path; if it exists, with "-2", "-3", ... added to the name."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
