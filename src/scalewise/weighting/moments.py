"""Count, mean and variance of the level losses, reduced in blocks and merged exactly.

A *partial* is a float32 tensor [3, n] with the rows count, mean and sum of squared deviations: the
form in which moments add up (Chan, Golub and LeVeque, 1979). Everything is shifted by a value of
the data before it is summed, so a constant loss has variance zero and not the square of a rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A spread below a few units in the last place is what rounding alone makes of a constant loss.
_ROUNDING = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Moments:
    """Statistics of each level's unweighted loss over one interval.

    Attributes:
        count: float32 [n], number of values; 0 for a level without any (or when there is no
            interval).
        mean: float32 [n], in units of the loss; 0 where count is 0.
        variance: float32 [n], sample variance (divisor count - 1); 0 where count is below 2 or
            where float32 cannot tell the spread from rounding.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor


def summarize(values: Tensor, keep: Tensor) -> Tensor:
    """Reduce rows of level losses to one partial.

    Args:
        values: float32 [R, n], level losses of R steps; may hold non-finite values where not kept.
        keep: bool [R, n], which of them count.

    Returns:
        float32 [3, n]: count, mean, sum of squared deviations.
    """
    count = keep.sum(0).to(values.dtype)  # [n]
    highest = values.masked_fill(~keep, -torch.inf).amax(0)  # [n]
    origin = torch.where(count > 0, highest, 0.0)
    shifted = torch.where(keep, values - origin, 0.0)  # [R, n]
    offset = shifted.sum(0) / count.clamp(min=1)
    deviation = torch.where(keep, shifted - offset, 0.0).square().sum(0)
    return torch.stack((count, origin + offset, deviation))


def merge(partials: Tensor) -> Tensor:
    """Merge partials of disjoint samples (blocks of an interval, ranks) into one.

    Args:
        partials: float32 [P, 3, n].

    Returns:
        float32 [3, n].
    """
    counts, means, deviations = partials.unbind(1)  # [P, n] each
    count = counts.sum(0)  # [n]
    highest = means.masked_fill(counts == 0, -torch.inf).amax(0)
    origin = torch.where(count > 0, highest, 0.0)
    mean = origin + (counts * (means - origin)).sum(0) / count.clamp(min=1)
    between = (counts * (means - mean).square()).sum(0)
    return torch.stack((count, torch.where(count > 0, mean, 0.0), deviations.sum(0) + between))


def finish(partial: Tensor) -> Moments:
    """Turn a partial [3, n] into moments."""
    count, mean, deviation = partial.unbind(0)
    variance = deviation / (count - 1).clamp(min=1)
    real = (count >= 2) & (variance > (_ROUNDING * mean).square())
    return Moments(count, mean, torch.where(real, variance, 0.0))
