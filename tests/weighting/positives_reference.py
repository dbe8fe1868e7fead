"""A second, simple implementation of weights for groups of positives: NumPy, float64, loops.

It follows the definition of the method, not the code: all values of all intervals are kept, and
the pooled moments are computed from all of them each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from weighting_reference import RefAVW, RefBalancer, Stats, Vector, proportional_among

ROUNDING = 16 * 2.0**-23


@dataclass
class Pooled(Stats):
    """Moments per positive, the number of positives, and the share of steps that have any."""

    positives: Vector
    presence: Vector


@dataclass
class Kept:
    """Values of a group in an interval, one for each step with a loss that counts."""

    losses: list[float]
    positives: list[float]
    shares: list[float]


Propose = Callable[[Pooled, Pooled], Vector]


def sound(variance: float, mean: float) -> float:
    """The variance, or 0 if it could be rounding only."""
    return variance if variance > (ROUNDING * mean) ** 2 else 0.0


def moments_of(
    intervals: Sequence[Kept], memory: float
) -> tuple[float, float, float, float, float]:
    """Steps with positives, mean and variance per positive, positives, and presence of a group.

    Each interval counts `memory` times as much as the next. The variance is the mean of the
    variances within intervals. The presence is the share of steps with positives.
    """
    ages = [memory ** (len(intervals) - 1 - k) for k in range(len(intervals))]

    def total(part: Callable[[Kept], float]) -> float:
        return sum(age * part(kept) for age, kept in zip(ages, intervals, strict=True))

    steps = total(lambda kept: len(kept.losses))
    there = total(lambda kept: sum(p > 0 for p in kept.positives))
    positives = total(lambda kept: sum(kept.positives))
    shares = total(lambda kept: sum(kept.shares))
    freedom = total(lambda kept: max(len(kept.losses) - 1, 0))
    squares = total(lambda kept: len(kept.losses) * np.var(kept.losses) if kept.losses else 0.0)
    if not steps or shares <= 1e-30:
        return there, 0.0, 0.0, positives, there / steps if steps else 0.0
    mean, share = total(lambda kept: sum(kept.losses)) / steps, shares / steps
    variance = sound(squares / freedom, mean) if freedom else 0.0
    return there, mean / share, variance / share**2, positives, there / steps


def share(power: float) -> Propose:
    """(1 / share)^power among the groups with positives."""

    def propose(current: Pooled, previous: Pooled) -> Vector:
        total = sum(current.positives)
        live = [p > 0 for p in current.positives]
        return proportional_among(
            [(total / max(p, 1e-30)) ** power if p > 0 else 0.0 for p in current.positives],
            live,
        )

    return propose


def by_loss(power: float) -> Propose:
    """mean^power among the groups with a loss."""

    def propose(current: Pooled, previous: Pooled) -> Vector:
        live = [m > 0 for m in current.mean]
        return proportional_among([m**power if m > 0 else 0.0 for m in current.mean], live)

    return propose


def effective(objects: Sequence[float], beta: float) -> Propose:
    """The inverse effective number of objects among the groups that have any."""

    def propose(current: Pooled, previous: Pooled) -> Vector:
        live = [k > 0 for k in objects]
        return proportional_among(
            [(1 - beta) / (1 - beta**k) if k > 0 else 0.0 for k in objects], live
        )

    return propose


def adaptive_variance(
    signal: str = "magnitude", temperature: float = 2.0, strength: float = 1.0, invert: bool = False
) -> Propose:
    """Softmax of the scores of groups, not smoothed since the moments are pooled."""
    return RefAVW(signal, temperature, strength, momentum=0.0, invert=invert).propose


def equal(current: Pooled, previous: Pooled) -> Vector:
    return [1.0] * len(current.mean)


class RefPositives(RefBalancer):
    """Weights after each call, by definition; `RefBalancer.judge` leaves values out."""

    def __init__(
        self,
        n: int,
        propose: Propose,
        interval: int | str,
        normalize: str = "positives",
        accumulate: int = 1,
        clip: tuple[float, float] = (0.25, 8.0),
        memory: float = 0.9,
        initial: Sequence[float] | None = None,
    ) -> None:
        super().__init__(n, lambda current, previous: current.mean, 1, normalize, accumulate)
        self.scheme, self.interval, self.accumulate = propose, interval, accumulate
        self.clip, self.memory = clip, memory
        self.counted: list[Sequence[float]] = []  # positives of the calls in this interval
        self.intervals: list[list[Kept]] = [[] for _ in range(n)]  # all intervals so far, by group
        self.before = self.moments(self.intervals)
        self.last = self.before  # moments of the last interval alone
        self.weights = list(initial or self.weights)
        self.period = self.length(0) * accumulate

    def length(self, steps: int) -> int:
        """The given interval, or a tenth of the steps so far, from 5 to 100."""
        if isinstance(self.interval, int):
            return self.interval
        return max(5, min(100, steps // 10))

    def step(
        self, losses: Sequence[float], positives: Sequence[float], background: float = 0.0
    ) -> float:
        self.counted.append(positives)
        return self.call(losses) + background

    def end(self) -> None:
        """Store the values of the interval, pool all intervals, and set the weights."""
        for g, intervals in enumerate(self.intervals):
            kept = Kept([], [], [])
            for row, positives in zip(self.open, self.counted, strict=True):
                if math.isfinite(row[g]):
                    kept.losses.append(row[g] if positives[g] > 0 else 0.0)
                    kept.positives.append(positives[g])
                    kept.shares.append(positives[g] / max(sum(positives), 1))
            intervals.append(kept)
        now = self.moments(self.intervals)
        self.last = self.moments([intervals[-1:] for intervals in self.intervals])
        self.weights = self.normalised(self.scheme(now, self.before), now)
        self.before, self.open, self.counted = now, [], []
        self.period = self.length(len(self.seen) // self.accumulate) * self.accumulate

    def moments(self, intervals: Sequence[Sequence[Kept]]) -> Pooled:
        """Pooled moments of each group's intervals."""
        found = [moments_of(own, self.memory) for own in intervals]
        return Pooled(*(list(part) for part in zip(*found, strict=True)))

    def normalised(self, proposal: Vector, now: Pooled) -> Vector:
        """Scale, clip, pull rare groups towards 1, scale again; 1 for groups never seen."""
        presence = [1 - (1 - p) ** self.accumulate for p in now.presence]
        live = [g for g in range(self.n) if now.presence[g] > 0]
        kept = {
            "positives": now.positives,
            "loss": [p * m for p, m in zip(now.positives, now.mean, strict=True)],
            "mean": [1.0] * self.n,
        }[self.normalize]
        weights = dict.fromkeys(range(self.n), 1.0)
        for g in live:
            weights[g] = proposal[g]
        for last in (False, True):
            before, after = sum(kept[g] for g in live), sum(kept[g] * weights[g] for g in live)
            for g in live:
                weights[g] *= before / after if before > 0 and after > 0 else 1.0
                if not last:
                    clipped = min(max(weights[g], self.clip[0]), self.clip[1])
                    weights[g] = presence[g] * clipped + (1 - presence[g])
        return list(weights.values())
