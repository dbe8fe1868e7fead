"""Small untrained detectors that look like trained runs, for tests of exports and predictions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scalewise import detectors
from scalewise.detectors import Batch
from scalewise.lab.detectors.layers import lighten
from scalewise.lab.export import write
from scalewise.lab.inference.trained import TrainedRun
from scalewise.lab.training.config import TrainConfig

CLASSES = ["disc", "square", "ring"]
SIZE = 90  # not a multiple of 32, so that images are padded

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in write.ONNX_PACKAGES),
    reason="needs scalewise[export]",
)


class SmallBackbone(nn.Module):
    """Features at strides 8, 16 and 32 from four convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU6(inplace=True))
        self.down = nn.ModuleList(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3))
        lighten(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to three features."""
        features = [self.stem(images)]
        for layer in self.down:
            features.append(layer(features[-1]))
        return features[1:]


def small_run(kind: Any, folder: Path) -> TrainedRun:
    """A run with random weights whose detector finds many boxes; its data set does not exist."""
    torch.manual_seed(0)
    detector = getattr(detectors, kind)("resnet18", len(CLASSES), width=16, depth=1)
    detector.backbone = SmallBackbone()
    detector.pyramid = type(detector.pyramid)([8, 8, 8], 16)
    with torch.no_grad():
        for name, values in detector.named_parameters():
            values.add_(torch.randn_like(values) * (0.3 if "head" in name else 0.05))
    folder.mkdir(parents=True, exist_ok=True)
    config = TrainConfig(
        data=str(folder / "gone"), detector=kind, size=SIZE, batch_size=3, workers=0
    )
    return TrainedRun(folder, config, CLASSES, detector.eval(), torch.device("cpu"), 1)


def pictures(count: int, side: int) -> Batch:
    """Random images of different sizes."""
    torch.manual_seed(count)
    sizes = torch.tensor([[SIZE - 7 * i, SIZE] for i in range(count)])
    return Batch(
        images=torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8),
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.int64),
        valid=torch.zeros(count, 0, dtype=torch.bool),
        sizes=sizes,
        scales=torch.ones(count, 2),
        image_ids=torch.arange(count),
    )
