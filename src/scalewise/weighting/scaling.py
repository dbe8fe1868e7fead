"""Makes weights of what a scheme proposes: scaled, clipped and checked."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.weighting.moments import Moments, is_finite


def scale_levels(proposal: Tensor, mean: Tensor, normalize: str) -> tuple[Tensor, Tensor]:
    """Weights of whole levels.

    Args:
        proposal: float32 [n].
        mean: float32 [n], loss of each level over the interval.
        normalize: "mean" or "loss", see `LossBalancer`.

    Returns:
        Weights float32 [n], and bool scalar, whether they can be used.
    """
    average = proposal.mean()
    weights = proposal / average
    sound = (weights >= 0).all() & (average > 0)  # also False for NaN and infinity
    if normalize == "loss":
        # Levels without values have mean 0 and drop out of both sums, which are alike, so that
        # equal weights stay 1 to the bit.
        weights = _keep(weights, mean)
    return weights, sound


def scale_positives(
    proposal: Tensor, pooled: Moments, calls: int, normalize: str, clip: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Weights of groups of positives: scaled, clipped, held by presence, and scaled or lifted.

    A heavy group that is in few of the optimizer's steps would move the parameters rarely but far.
    So weights become `w = 1 + p (w - 1)`, where p is the share of the steps that have the group.

    Args:
        proposal: float32 [n].
        pooled: moments of positives; a group that has none weighs 1 and is no part of the scaling.
        calls: that make one optimizer step: the accumulated ones, times the ranks.
        normalize: "mean", "loss", "positives" or "lift", see `LossBalancer`.
        clip: least and largest weight, before presence and the last scaling.

    Returns:
        Weights float32 [n], and bool scalar, whether the proposal could be used.
    """
    assert pooled.positives is not None
    assert pooled.presence is not None
    presence = 1 - (1 - pooled.presence) ** calls  # [n], in the optimizer's steps
    kept = {
        "positives": pooled.positives,
        "lift": pooled.positives,
        "loss": pooled.positives * pooled.mean,
        "mean": torch.ones_like(proposal),
    }[normalize]
    live = pooled.presence > 0  # [n]
    kept = torch.where(live, kept, 0.0)
    among = torch.where(live, proposal, 0.0)
    sound = (among >= 0).all() & is_finite(proposal).all()
    sound = sound & ((among.sum() > 0) | ~live.any())
    weights = 1 + presence * (_keep(proposal, kept).clamp(*clip) - 1)
    weights = weights.clamp(min=1.0) if normalize == "lift" else _keep(weights, kept)
    weights = torch.where(live, weights, 1.0)
    return weights, sound


def _keep(weights: Tensor, kept: Tensor) -> Tensor:
    """Scale weights [n] so that `(kept * weights).sum()` is `kept.sum()`."""
    factor = kept.sum() / (weights * kept).sum()
    return weights * torch.where(is_finite(factor) & (factor > 0), factor, 1.0)
