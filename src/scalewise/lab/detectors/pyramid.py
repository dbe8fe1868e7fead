"""The feature pyramid P3 to P7."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from scalewise.lab.detectors.layers import lighten

STRIDES = (8, 16, 32, 64, 128)


def level_names(strides: Sequence[int] = STRIDES) -> tuple[str, ...]:
    """P3, P4, ...: the usual names of the levels, by the power of two of their stride."""
    return tuple(f"P{stride.bit_length() - 1}" for stride in strides)


class Pyramid(nn.Module):
    """Turns features of strides 8, 16 and 32 to five levels of one width; P6, P7 come from P5.

    Args:
        channels: channels of the three input features, finest first.
        width: channels of every level.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(channels), width, LastLevelP6P7(width, width))
        lighten(self.fpn)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Turn features [B, C_i, H_i, W_i] of three levels to [B, width, H_i, W_i] of five."""
        return list(self.fpn({str(i): x for i, x in enumerate(features)}).values())
