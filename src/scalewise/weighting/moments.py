"""Count, mean and variance of the groups' losses, reduced in blocks and merged exactly.

A *partial* is a float32 tensor [6, n] with the rows count, mean and sum of squared deviations, the
form in which moments add up (Chan, Golub and LeVeque, 1979), then the numbers of values left out
(not finite, and outliers), and the number of positives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS, POOLED = 6, 7  # of a partial, and of what `pool` keeps
# A relative spread this small is what float32 rounding makes of a constant loss: it is none.
ROUNDING = 16 * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Moments:
    """Statistics of each group's unweighted loss over one interval.

    For whole levels the loss is the level's. For positives it is the group's loss per positive, on
    the scale of the detector's whole loss: the group's loss over its share of the step's positives,
    from the steps in which it has any. Weighted by the shares, these add up to the loss of all
    positives.

    Attributes:
        count: float32 [n], number of values; 0 for a group without any (or when there is no
            interval).
        mean: float32 [n], in units of the loss; 0 where count is 0.
        variance: float32 [n], sample variance (divisor count - 1); 0 where count is below 2 or
            where float32 cannot tell the spread from rounding.
        positives: float32 [n], number of positives in the interval; 0 for whole levels.
        pooled: over the intervals so far, older ones counting less, with the variance from step to
            step (see `pool`); for positives only, where an interval may hold nothing of a group.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    positives: Tensor | None = None
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
        Partial, float32 [6, n]; no positives.
    """
    keep = finite ^ outlier
    count, outliers = keep.sum(0), outlier.sum(0)  # [n] each
    mean = torch.where(keep, values, 0.0).sum(0) / count.clamp(min=1)
    deviation = torch.where(keep, values - mean, 0.0).square().sum(0)
    skipped = len(values) - count - outliers
    return torch.stack((count, mean, deviation, skipped, outliers, torch.zeros_like(mean)))


def summarize_positives(
    values: Tensor, positives: Tensor, finite: Tensor, outlier: Tensor
) -> Tensor:
    """Reduce rows of the losses of groups of positives to one partial, of losses per positive.

    Args:
        values: float32 [R, n], losses of R steps, 0 where not finite.
        positives: float32 [R, n], positives of those steps.
        finite: bool [R, n], of the losses.
        outlier: bool [R, n], finite but left out.

    Returns:
        Partial, float32 [6, n].
    """
    keep = (finite ^ outlier) & (positives > 0)
    scaled = torch.where(keep, values * (positives.sum(1, keepdim=True) / positives), 0.0)
    partial = summarize(scaled, keep, torch.zeros_like(keep))
    left_out = torch.stack(
        ((~finite).sum(0), outlier.sum(0), torch.where(keep, positives, 0).sum(0))
    )
    return torch.cat((partial[:3], left_out))


def merge(partials: Tensor) -> Tensor:
    """Merge partials of disjoint samples (blocks of an interval, ranks) into one.

    Args:
        partials: float32 [P, 6, n].

    Returns:
        Partial, float32 [6, n].
    """
    counts, means, deviations = partials[:, :3].unbind(1)  # [P, n] each
    count = counts.sum(0)  # [n]
    mean = (counts * means).sum(0) / count.clamp(min=1)
    deviation = (deviations + counts * (means - mean).square()).sum(0)
    return torch.cat((torch.stack((count, mean, deviation)), partials[:, 3:].sum(0)))


def pool(past: Tensor, partial: Tensor, memory: float) -> Tensor:
    """Add an interval to the intervals before it, which count `memory` times as much as before.

    The variance is that from step to step: squared deviations within each interval, and the jumps
    from an interval's mean to the next one's, each with its degrees of freedom (von Neumann's mean
    square successive difference). A loss that falls slowly is calm by it, where the deviation from
    one common mean would call every group uneasy that learns. A group without a value in the
    interval keeps its moments, so that a rare one is not forgotten between two appearances; its
    number of positives shrinks as everyone's does.

    Args:
        past: float32 [7, n], what this returned before; zeros at first. Rows count, mean, squared
            deviations, degrees of freedom, positives, and count and mean of the last interval in
            which the group had a value.
        partial: float32 [6, n], of the interval.
        memory: 0 to below 1.

    Returns:
        float32 [7, n].
    """
    count, mean, deviation, freedom, positives, last_count, last_mean = past.unbind(0)
    new, new_mean = partial[0], partial[1]
    fresh = new > 0  # [n]
    keep = torch.where(fresh, memory, 1.0)
    old = count * keep
    total = old + new
    pooled_mean = (old * mean + new * new_mean) / torch.where(total > 0, total, 1.0)
    both = fresh & (last_count > 0)
    harmonic = last_count * new / torch.where(both, last_count + new, 1.0)
    jump = torch.where(both, harmonic * (new_mean - last_mean).square(), 0.0)
    return torch.stack(
        (
            total,
            pooled_mean,
            deviation * keep + partial[2] + jump,
            freedom * keep + (new - 1).clamp(min=0) + both,
            memory * positives + partial[5],
            torch.where(fresh, new, last_count),
            torch.where(fresh, new_mean, last_mean),
        )
    )


def finish_pooled(pooled: Tensor) -> Moments:
    """Turn what `pool` returned, float32 [7, n], into moments."""
    count, mean, deviation, freedom, positives = pooled[:5].unbind(0)
    variance = deviation / torch.where(freedom > 0, freedom, 1.0)
    sound = variance > (ROUNDING * mean).square()
    return Moments(count, mean, torch.where(sound, variance, 0.0), positives)


def finish(count: Tensor, mean: Tensor, deviation: Tensor, positives: Tensor) -> Moments:
    """Turn sums, float32 [n] each, into moments."""
    variance = deviation / (count - 1)  # NaN or -0 below two values, which the next line drops
    sound = variance > (ROUNDING * mean).square()
    return Moments(count, mean, torch.where(sound & (count > 1), variance, 0.0), positives)
