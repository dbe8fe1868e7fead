"""Which recorded values may enter the statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sifted(NamedTuple):
    """What became of R recorded steps of n levels; every value is in exactly one of the three.

    Attributes:
        keep: bool [R, n], enters the statistics.
        broken: bool [R, n], not finite.
        outlier: bool [R, n], finite, but of a step whose total loss exploded.
    """

    keep: Tensor
    broken: Tensor
    outlier: Tensor


def sift(fresh: Tensor, recent: Tensor, factor: float | None) -> Sifted:
    """Leave out non-finite values and steps whose total exceeds `factor` times the recent median.

    A step is judged by its total over the finite levels. A batch without positives multiplies the
    whole loss; a rare level that wakes up changes its own loss a thousandfold but hardly the total,
    and its few informative steps must stay. A median that is not positive guards nothing.

    Args:
        fresh: float32 [R, n], the steps to judge.
        recent: float32 [V, n], the latest V recorded steps, the fresh ones among them.
        factor: above 1, or None to keep every finite value.

    Returns:
        The three masks.
    """
    finite = fresh.isfinite()
    if factor is None:
        return Sifted(finite, ~finite, torch.zeros_like(finite))
    known = recent.isfinite()  # [V, n]
    some = known.any(1)  # [V]
    totals = torch.where(known, recent, 0.0).sum(1).masked_fill(~some, torch.inf)
    middle = ((some.sum() - 1) // 2).clamp(min=0)  # lower median of the steps with any finite level
    median = totals.sort().values.gather(0, middle.unsqueeze(0))  # [1]
    limit = torch.where(median > 0, factor * median, torch.inf)
    exploded = torch.where(finite, fresh, 0.0).sum(1) > limit  # [R]
    outlier = finite & exploded.unsqueeze(1)
    return Sifted(finite & ~outlier, ~finite, outlier)
