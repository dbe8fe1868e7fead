"""Count, mean and variance of the groups' losses, reduced in blocks and merged exactly.

A *partial* is a float32 tensor [8, n] with the rows count, mean and sum of squared deviations, the
form in which moments add up (Chan, Golub and LeVeque, 1979), then the numbers of values left out
(not finite, and outliers); and for positives their number, the number of steps that have any, and
the sum over the steps of the group's share of the step's positives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS, POOLED = 8, 7  # of a partial, and of what `pool` keeps
FEWEST = 1e-30  # of what is left of a group not seen for long: float32 cannot divide by less
# A relative spread this small is what float32 rounding makes of a constant loss: it is none.
ROUNDING = 16 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Moments:
    """Statistics of each group's unweighted loss over one interval.

    For whole levels the loss is the level's. For positives it is the group's loss per positive, on
    the scale of the detector's whole loss: the group's loss in a step, 0 where it has no positives,
    over its mean share of the steps' positives. Weighted by the shares, the means add up to the
    loss of all positives.

    Attributes:
        count: float32 [n], number of values; of positives the steps in which the group has any.
            0 for a group without any (or when there is no interval).
        mean: float32 [n], in units of the loss; 0 where count is 0.
        variance: float32 [n], sample variance over the steps; 0 where there are fewer than two, or
            where float32 cannot tell the spread from rounding. Of positives it is larger for rarer
            groups, since their number of positives varies more from step to step.
        positives: float32 [n], number of positives in the interval; None for whole levels.
        presence: float32 [n], share of the steps in which the group has positives; None for whole
            levels.
        pooled: the same over the intervals so far, older ones counting less; for positives only,
            since a single interval may have none of a group.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(2, "equal", interval=2)
        >>> for losses in ([1.0, 4.0], [3.0, 4.0]):
        ...     total = balancer(torch.tensor(losses, requires_grad=True))
        >>> balancer.statistics.mean, balancer.statistics.variance
        (tensor([2., 4.]), tensor([2., 0.]))
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    positives: Tensor | None = None
    presence: Tensor | None = None
    pooled: Moments | None = None


def is_finite(values: Tensor) -> Tensor:
    """`values.isfinite()` in half the kernels: only a finite number minus itself is 0."""
    return (values - values) == 0


def summarize(values: Tensor, finite: Tensor, outlier: Tensor) -> Tensor:
    """Reduce rows of losses to one partial.

    Args:
        values: float32 [R, n], losses of R steps, 0 where not finite.
        finite: bool [R, n].
        outlier: bool [R, n], finite but left out.

    Returns:
        Partial, float32 [8, n]; no positives.
    """
    keep = finite ^ outlier
    return _partial(torch.where(keep, values, 0.0), keep, outlier)


def _partial(kept: Tensor, keep: Tensor, outlier: Tensor) -> Tensor:
    """A partial float32 [8, n] without positives, of values [R, n] that are 0 where not to keep."""
    count, outliers = keep.sum(0), outlier.sum(0)  # [n] each
    mean = kept.sum(0) / count.clamp(min=1)
    deviation = torch.where(keep, kept - mean, 0.0).square().sum(0)
    skipped = len(kept) - count - outliers
    none = torch.zeros_like(mean)
    return torch.stack((count, mean, deviation, skipped, outliers, none, none, none))


def summarize_positives(
    values: Tensor, positives: Tensor, finite: Tensor, outlier: Tensor
) -> Tensor:
    """Reduce rows of the losses of groups of positives to one partial.

    Args:
        values: float32 [R, n], losses of R steps, 0 where not finite.
        positives: float32 [R, n], positives of those steps.
        finite: bool [R, n], of the losses.
        outlier: bool [R, n], finite but left out.

    Returns:
        Partial, float32 [8, n].
    """
    keep = finite ^ outlier
    there = (positives > 0) & keep
    partial = _partial(torch.where(there, values, 0.0), keep, outlier)
    kept = torch.where(keep, positives, 0.0)
    shares = kept / positives.sum(1, keepdim=True).clamp(min=1)
    counts = torch.stack((kept.sum(0), there.sum(0), shares.sum(0)))  # [3, n]
    return torch.cat((partial[:5], counts))


def merge(partials: Tensor) -> Tensor:
    """Merge partials of disjoint samples (blocks of an interval, ranks) into one.

    Args:
        partials: float32 [P, 8, n].

    Returns:
        Partial, float32 [8, n].
    """
    counts, means, deviations = partials[:, :3].unbind(1)  # [P, n] each
    count = counts.sum(0)  # [n]
    mean = (counts * means).sum(0) / count.clamp(min=1)
    deviation = (deviations + counts * (means - mean).square()).sum(0)
    return torch.cat((torch.stack((count, mean, deviation)), partials[:, 3:].sum(0)))


def pool(past: Tensor, partial: Tensor, memory: float) -> Tensor:
    """Add an interval to the intervals before it, which count `memory` times as much as before.

    Squared deviations are those from each interval's own mean, so that a loss which falls from
    interval to interval does not count as one that varies.

    Args:
        past: float32 [..., 7, n], what this returned before; zeros at first. Rows count, mean,
            squared deviations and their degrees of freedom, positives, steps with any, and shares.
        partial: float32 [8, n], of the interval.
        memory: 0 to below 1.

    Returns:
        float32 [..., 7, n].
    """
    count, mean = past[..., 0, :], past[..., 1, :]
    old, new = memory * count, partial[0]
    total = old + new
    pooled_mean = (old * mean + new * partial[1]) / torch.where(total > 0, total, 1.0)
    fresh = torch.stack((partial[2], (new - 1).clamp(min=0), *partial[5:]))
    return torch.cat((torch.stack((total, pooled_mean), -2), memory * past[..., 2:, :] + fresh), -2)


def finish_pooled(pooled: Tensor) -> Moments:
    """Turn what `pool` returned, float32 [..., 7, n], into moments of positives."""
    count, mean, deviation, freedom, positives, present, shares = pooled.unbind(-2)
    variance = deviation / torch.where(freedom > 0, freedom, 1.0)
    sound = variance > (ROUNDING * mean).square()
    # per positive: over the group's mean share of the steps' positives
    live = shares > FEWEST
    per = torch.where(live, count / torch.where(live, shares, 1.0), 0.0)
    variance = torch.where(sound, variance * per.square(), 0.0)
    presence = present / torch.where(count > 0, count, 1.0)
    return Moments(present, mean * per, variance, positives, presence)


def pool_interval(
    past: Tensor, partial: Tensor, memory: float
) -> tuple[Tensor, Moments, Moments, Moments]:
    """Add an interval to those before it, as `pool` does, all in one batch of small operations.

    Returns:
        What `pool` returns, and the moments of the interval alone, of all, and of those before.
    """
    after = pool(torch.stack((torch.zeros_like(past), past)), partial, memory)  # [2, 7, n]
    found = finish_pooled(torch.cat((after, past.unsqueeze(0))))
    assert found.positives is not None
    assert found.presence is not None
    fields = (found.count, found.mean, found.variance, found.positives, found.presence)
    alone, pooled, before = (
        Moments(*rows) for rows in zip(*(field.unbind(0) for field in fields), strict=True)
    )
    return after[1], alone, pooled, before


def moments_of(partial: Tensor) -> Moments:
    """Turn a partial, float32 [8, n], into the moments of whole levels."""
    count, mean, deviation = partial[:3].unbind(0)
    variance = deviation / (count - 1)  # NaN or -0 below two values, which the next line drops
    sound = variance > (ROUNDING * mean).square()
    return Moments(count, mean, torch.where(sound & (count > 1), variance, 0.0))
