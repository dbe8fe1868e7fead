"""Weighting by the coefficient of variation of loss ratios."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.weighting.moments import ROUNDING, Moments, is_finite
from scalewise.weighting.scheme import Scheme, proportional_weights, register


@register("cov")
class CoV(Scheme):
    """Weights in proportion to the coefficient of variation of each level's loss ratio.

    CoV-Weighting of Groenendijk et al. (WACV 2021) on interval means; `interval=1` is the published
    per-step rule. The ratio is `m(t)` over the mean of the whole history before t (1 at first); its
    mean and deviation run over all intervals. A level with fewer than two ratios weighs 1.

    Args:
        per_positive: look at each level's loss over its share of the positives, not at the loss.
    """

    history: Tensor
    ratios: Tensor

    def __init__(self, per_positive: bool = False) -> None:
        super().__init__()
        self.per_positive = per_positive

    @property
    def name(self) -> str:
        """Either "cov" or "cov-per-positive"."""
        return "cov" + "-per-positive" * self.per_positive

    def build(self, num_levels: int, seed: int) -> None:
        """Create the history [2, n] (count, mean loss) and the ratios [3, n] (count, mean, dev)."""
        self.register_buffer("history", torch.zeros(2, num_levels))
        self.register_buffer("ratios", torch.zeros(3, num_levels))

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Extend the history by one interval and compare the ratios' coefficients of variation."""
        current = self.view(current)
        seen, loss = self.history.unbind(0)  # [n] each
        count, mean, deviation = self.ratios.clone().unbind(0)
        ratio = torch.where(seen > 0, current.mean / loss, 1.0)
        fresh = (current.count > 0) & is_finite(ratio)
        step = ratio - mean
        new_count = count + 1
        new_mean = mean + step / new_count
        new_deviation = deviation + step * (ratio - new_mean)
        updated = torch.stack((new_count, new_mean, new_deviation))
        self.ratios.copy_(torch.where(fresh, updated, self.ratios))

        total = seen + current.count
        share = current.count / total.clamp(min=1)
        self.history.copy_(torch.stack((total, loss + share * (current.mean - loss))))

        count, mean, deviation = self.ratios.unbind(0)
        variation = (deviation / count.clamp(min=1)).sqrt() / mean
        variation = torch.where(variation > ROUNDING, variation, 0.0)
        return proportional_weights(variation, (count >= 2) & (mean > 0))
