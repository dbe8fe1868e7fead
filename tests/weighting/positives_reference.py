"""A second, plain implementation of weights for groups of positives: NumPy, float64, loops.

Written from the method's definition, not from the code: nothing is blocked or merged, every value
of every interval is kept and the pooled moments are worked out from all of them anew.
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
    """Moments per positive, with the number of positives and how often there are any."""

    positives: Vector
    presence: Vector


@dataclass
class Kept:
    """What an interval holds of a group: one entry for each step whose loss counts."""

    losses: list[float]
    positives: list[float]
    shares: list[float]


Propose = Callable[[Pooled, Pooled], Vector]


def sound(variance: float, mean: float) -> float:
    """The variance, or 0 if it is no more than rounding."""
    return variance if variance > (ROUNDING * mean) ** 2 else 0.0


def moments_of(
    intervals: Sequence[Kept], memory: float
) -> tuple[float, float, float, float, float]:
    """Of one group: steps with any, mean and variance per positive, positives, share of the steps.

    An interval counts `memory` times as much with each later one; the variance is the mean over the
    intervals of the variance within each.
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
    """mean^power among the groups that cost anything."""

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
    """Softmax of the latest score of each group, not smoothed: the moments are pooled already."""
    return RefAVW(signal, temperature, strength, momentum=0.0, invert=invert).propose


def equal(current: Pooled, previous: Pooled) -> Vector:
    return [1.0] * len(current.mean)


class RefPositives(RefBalancer):
    """Weights in force after each call, by the book.

    Which values are left out, and when, is the business of `RefBalancer.judge`.
    """

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
        self.counted: list[Sequence[float]] = []  # positives of this interval's calls
        self.intervals: list[list[Kept]] = [[] for _ in range(n)]  # of each group, all so far
        self.before = self.moments(self.intervals)
        self.last = self.before  # of the last interval alone
        self.weights = list(initial or self.weights)
        self.period = self.length(0) * accumulate

    def length(self, steps: int) -> int:
        """A tenth of the steps so far, from 5 to 100, or what was given."""
        if isinstance(self.interval, int):
            return self.interval
        return max(5, min(100, steps // 10))

    def step(
        self, losses: Sequence[float], positives: Sequence[float], background: float = 0.0
    ) -> float:
        self.counted.append(positives)
        return self.call(losses) + background

    def end(self) -> None:
        """Keep what the interval holds, pool all intervals, and set the weights."""
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
        """Of each group's intervals."""
        found = [moments_of(own, self.memory) for own in intervals]
        return Pooled(*(list(part) for part in zip(*found, strict=True)))

    def normalised(self, proposal: Vector, now: Pooled) -> Vector:
        """Scale, clip, draw towards 1 what is seldom there, and scale; 1 for what never was."""
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
