"""Count, mean and variance of the level losses, reduced in blocks and merged exactly.

A *partial* is a float32 tensor [5, n] with the rows count, mean and sum of squared deviations, the
form in which moments add up (Chan, Golub and LeVeque, 1979), and then the numbers of values left
out: not finite, and outliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A relative spread this small is what float32 rounding makes of a constant loss: it is none.
ROUNDING = 16 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Moments:
    """Statistics of each level's unweighted loss over one interval.

    Attributes:
        count: float32 [n], number of values; 0 for a level without any (or when there is no
            interval).
        mean: float32 [n], in units of the loss; 0 where count is 0.
        variance: float32 [n], sample variance (divisor count - 1); 0 where count is below 2 or
            where float32 cannot tell the spread from rounding.
        per_positive: the same of each level's loss over its share of the step's positives, from the
            steps in which the level has any; None unless the scheme asks for it.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    per_positive: Moments | None = None


def is_finite(values: Tensor) -> Tensor:
    """`values.isfinite()` in half the kernels: only a finite number minus itself is 0."""
    return (values - values) == 0


def summarize(values: Tensor, finite: Tensor, outlier: Tensor) -> Tensor:
    """Reduce rows of level losses to one partial.

    Args:
        values: float32 [R, n], losses of R steps, 0 where not finite.
        finite: bool [R, n].
        outlier: bool [R, n], finite but left out.

    Returns:
        Partial, float32 [5, n].
    """
    keep = finite ^ outlier
    count, outliers = keep.sum(0), outlier.sum(0)  # [n] each
    mean = torch.where(keep, values, 0.0).sum(0) / count.clamp(min=1)
    deviation = torch.where(keep, values - mean, 0.0).square().sum(0)
    return torch.stack((count, mean, deviation, len(values) - count - outliers, outliers))


def summarize_per_positive(values: Tensor, positives: Tensor, keep: Tensor) -> Tensor:
    """Reduce rows of level losses over each level's share of the positives to one partial.

    How the objects of a batch fall on the levels moves a level's loss far more than learning does.
    Over the level's share `p_i / sum p` that part is gone, and a level without objects has no value
    instead of a small one. The total stays: weighted by the shares, the values add up to it.

    Args:
        values: float32 [R, n], losses of R steps.
        positives: float32 [R, n], positive anchors or locations of those steps.
        keep: bool [R, n], losses that may enter.

    Returns:
        Partial, float32 [5, n]; nothing counts as left out.
    """
    has = keep & (positives > 0)
    scaled = values * (positives.sum(1, keepdim=True) / positives)
    return summarize(torch.where(has, scaled, 0.0), has, torch.zeros_like(has))


def merge(partials: Tensor) -> Tensor:
    """Merge partials of disjoint samples (blocks of an interval, ranks) into one.

    Args:
        partials: float32 [P, 5, n].

    Returns:
        Partial, float32 [5, n].
    """
    counts, means, deviations, skipped, outliers = partials.unbind(1)  # [P, n] each
    count = counts.sum(0)  # [n]
    mean = (counts * means).sum(0) / count.clamp(min=1)
    deviation = (deviations + counts * (means - mean).square()).sum(0)
    return torch.stack((count, mean, deviation, skipped.sum(0), outliers.sum(0)))


def split(moments: Moments, levels: int) -> Moments:
    """Moments [2n], whose second half is per positive, as moments [n] that have it inside."""
    count, mean, variance = moments.count, moments.mean, moments.variance
    shared = Moments(count[levels:], mean[levels:], variance[levels:])
    return Moments(count[:levels], mean[:levels], variance[:levels], shared)


def finish(partial: Tensor) -> Moments:
    """Turn a partial [5, n] into moments."""
    count, mean, deviation = partial[:3].unbind(0)
    variance = deviation / (count - 1)  # NaN or -0 below two values, which the next line drops
    return Moments(count, mean, torch.where(variance > (ROUNDING * mean).square(), variance, 0.0))
