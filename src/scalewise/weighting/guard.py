"""Which recorded values are used in the statistics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalewise.weighting.moments import is_finite


@dataclass(frozen=True)
class Sifted:
    """R recorded steps of n groups, and which of their values to leave out.

    Attributes:
        values: float32 [R, n], the losses, 0 where not finite.
        finite: bool [R, n].
        outlier: bool [R, n], finite, but of a step whose total exploded.
    """

    values: Tensor
    finite: Tensor
    outlier: Tensor


def sift(recent: Tensor, fresh: int, factor: float | None) -> Sifted:
    """Find non-finite values, and steps whose total exceeds `factor` times the recent median.

    A step is judged by its total, in which a value that is not finite counts as 0. A batch without
    positives multiplies the whole loss. The loss of a rare group is a thousand times larger in the
    few steps that have its objects, but hardly changes the total, so these steps are kept. If the
    median is not positive, nothing is an outlier.

    Args:
        recent: float32 [V, n], the last V >= 1 recorded steps, oldest first.
        fresh: how many of them, from the end, to judge.
        factor: above 1, or None to call nothing an outlier.

    Returns:
        The fresh steps.
    """
    first = len(recent) - fresh
    finite = is_finite(recent)
    values = torch.where(finite, recent, 0.0)
    kept = finite[first:]
    if factor is None:
        return Sifted(values[first:], kept, torch.zeros_like(kept))
    totals = values.sum(1)  # [V]
    median = totals.sort().values[(len(recent) - 1) // 2]  # the lower one
    exploded = (totals[first:] > factor * median) & (median > 0)  # [fresh]
    return Sifted(values[first:], kept, kept & exploded.unsqueeze(1))
