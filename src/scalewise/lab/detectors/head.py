"""The convolutional head that all levels share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scalewise.lab.detectors.method import Predictions

PRIOR = 0.01  # probability that an untrained head gives every class


def norm_groups(width: int) -> int:
    """Number of groups: at most 32, of at least 8 channels each; 32 for 256 channels as published.

    On the 1 x 1 maps of small images, smaller groups would have too few values to normalise.
    """
    return max(n for n in (1, 2, 4, 8, 16, 32) if n == 1 or (width % n == 0 and width // n >= 8))


def _tower(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(norm_groups(width), width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Head(nn.Module):
    """Two towers of convolutions, one for classes, one for boxes and centerness.

    The box output of each level is multiplied by a learned scalar, so that levels whose boxes
    differ in size can share their convolutions (Tian et al., ICCV 2019).

    Args:
        width: channels of the pyramid and of the towers.
        depth: 3x3 convolutions per tower, each with GroupNorm and ReLU.
        num_classes: outputs per anchor.
        anchors: number of anchors per location.
        levels: number of levels of the pyramid.
        centerness: whether to predict centerness.
        first_delta: bias of the box output.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_classes: int,
        anchors: int,
        levels: int,
        centerness: bool,
        first_delta: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower = _tower(width, depth)
        self.box_tower = _tower(width, depth)
        self.classes = nn.Conv2d(width, anchors * num_classes, 3, padding=1)
        self.boxes = nn.Conv2d(width, anchors * 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, anchors, 3, padding=1) if centerness else None
        self.scales = nn.Parameter(torch.ones(levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        assert self.boxes.bias is not None
        assert self.classes.bias is not None
        nn.init.constant_(self.boxes.bias, first_delta)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, features: Sequence[Tensor]) -> Predictions:
        """Predict from levels [B, width, H_i, W_i], finest first; outputs are float32."""
        logits, deltas, centerness = [], [], []
        for scale, feature in zip(self.scales, features, strict=True):
            boxes = self.box_tower(feature)
            logits.append(_rows(self.classes(self.class_tower(feature)), self.num_classes))
            deltas.append(_rows(self.boxes(boxes), 4) * scale)
            if self.centerness is not None:
                centerness.append(_rows(self.centerness(boxes), 1)[..., 0])
        return Predictions(
            torch.cat(logits, dim=1),
            torch.cat(deltas, dim=1),
            torch.cat(centerness, dim=1) if centerness else None,
        )


def _rows(output: Tensor, size: int) -> Tensor:
    """[B, anchors * size, H, W] to [B, H * W * anchors, size], float32."""
    return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, size).float()
