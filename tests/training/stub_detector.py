"""A detector with the same detections in every bright image, to test what uses detections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from scalewise.detectors import Batch, Detections

CLASSES = ["cat", "dog", "eel"]


@dataclass
class Stub:
    """Finds a dog on the left half of every bright image, and a cat with a lower score."""

    classes: list[str]
    size: int = 64
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    batch_size: int = 4
    workers: int = 0

    def detect(self, batch: Batch) -> Detections:
        """Two boxes for each image, in pixels of the padded image."""
        height, width = batch.sizes.T.float()
        none = torch.zeros_like(width)
        dog = torch.stack((none, none, width / 2, height), dim=-1)
        cat = torch.stack((width / 4, height / 4, width, height), dim=-1)
        bright = batch.images[:, :, :4, :4].float().mean((1, 2, 3)) > 100
        count = len(width)
        return Detections(
            torch.stack((dog, cat), dim=1),
            torch.tensor([[0.9, 0.4]]).repeat(count, 1),
            torch.tensor([[1, 0]]).repeat(count, 1),
            torch.zeros(count, 2, dtype=torch.int64),
            bright[:, None].expand(-1, 2),
        )


def save(path: Path, size: tuple[int, int], color: str = "white") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path
