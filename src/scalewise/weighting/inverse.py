"""Inverse-loss balance."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.weighting.moments import Moments, is_finite
from scalewise.weighting.scheme import Scheme, proportional_weights, register


@register("inverse")
class InverseLoss(Scheme):
    """Weights in inverse proportion to each level's running mean loss.

    The idea of YOLOv5's `autobalance`. Nothing bounds the weight of a level whose loss is nearly 0;
    one whose running mean is not positive weighs 1.

    Args:
        momentum: 0 to below 1, of the running mean, per interval.

    Raises:
        ValueError: the momentum is out of range.
    """

    average: Tensor
    seen: Tensor

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 without 1, got {momentum}")
        self.momentum = momentum

    def build(self, num_levels: int, seed: int) -> None:
        """Create the running mean."""
        self.register_buffer("average", torch.zeros(num_levels))
        self.register_buffer("seen", torch.zeros(num_levels, dtype=torch.bool))

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Update the running mean and invert it."""
        fresh = current.count > 0
        blend = self.momentum * self.average + (1 - self.momentum) * current.mean
        average = torch.where(self.seen, blend, current.mean)
        self.average.copy_(torch.where(fresh, average, self.average))
        self.seen.logical_or_(fresh)
        inverse = self.average.reciprocal()
        return proportional_weights(inverse, self.seen & is_finite(inverse) & (inverse > 0))
