"""The weights of groups of positives once more, in NumPy and float64 with plain loops.

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
    """Moments with the number of positives of each group."""

    positives: Vector


Propose = Callable[[Pooled, Pooled], Vector]


def squares(values: Sequence[float]) -> float:
    """The sum of squared deviations from the values' own mean."""
    return float(len(values) * np.var(values)) if len(values) else 0.0


def sound(variance: float, mean: float) -> float:
    """The variance, or 0 if it is no more than rounding."""
    return variance if variance > (ROUNDING * mean) ** 2 else 0.0


def moments_of(values: Sequence[float]) -> tuple[float, float, float]:
    """Count, mean and sample variance."""
    count, mean = len(values), float(np.mean(values)) if len(values) else 0.0
    return count, mean, sound(squares(values) / (count - 1), mean) if count > 1 else 0.0


def pooled_moments(
    intervals: Sequence[Sequence[float]], memory: float
) -> tuple[float, float, float]:
    """Count, mean and variance of intervals, which count `memory` times as much for each later one.

    The variance has the deviations within each interval, and those that appear when an interval is
    thrown together with the one before: one more degree of freedom.
    """
    count = total = deviation = freedom = 0.0
    for k, values in enumerate(intervals):
        weight = memory ** (len(intervals) - 1 - k)
        count += weight * len(values)
        total += weight * sum(values)
        deviation += weight * squares(values)
        freedom += weight * (len(values) - 1)
        if k:
            past = intervals[k - 1]
            jump = squares([*past, *values]) - squares(past) - squares(values)
            deviation += weight * jump
            freedom += weight
    mean = total / count if count else 0.0
    return count, mean, sound(deviation / freedom, mean) if freedom else 0.0


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
        least: float = 1.0,
        memory: float = 0.9,
        initial: Sequence[float] | None = None,
    ) -> None:
        super().__init__(n, lambda current, previous: current.mean, 1, normalize, accumulate)
        self.scheme, self.interval, self.accumulate = propose, interval, accumulate
        self.clip, self.least, self.memory = clip, least, memory
        self.counted: list[Sequence[float]] = []  # positives of this interval's calls
        # intervals so far; of each the values per positive and the positives, by group
        self.values: list[list[Vector]] = []
        self.positives: list[Vector] = []
        self.before = self.pooled()
        self.last = self.pooled()  # of the last interval alone
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
        """Keep the interval's values, pool all of them, and set the weights."""
        values: list[Vector] = [[] for _ in range(self.n)]
        found = [0.0] * self.n
        for row, positives in zip(self.open, self.counted, strict=True):
            for g in range(self.n):
                if math.isfinite(row[g]) and positives[g] > 0:
                    values[g].append(row[g] * sum(positives) / positives[g])
                    found[g] += positives[g]
        self.values.append(values)
        self.positives.append(found)
        now = self.pooled()
        count, mean, variance = (list(part) for part in zip(*map(moments_of, values), strict=True))
        self.last = Pooled(count, mean, variance, found)
        self.weights = self.normalised(self.scheme(now, self.before), now)
        self.before, self.open, self.counted = now, [], []
        self.period = self.length(len(self.seen) // self.accumulate) * self.accumulate

    def pooled(self) -> Pooled:
        """Of all intervals; a group's moments of those in which it has a value."""
        result = Pooled([], [], [], [])
        for g in range(self.n):
            present = [values[g] for values in self.values if values[g]]
            count, mean, variance = pooled_moments(present, self.memory)
            result.count.append(count)
            result.mean.append(mean)
            result.variance.append(variance)
            ages = range(len(self.positives) - 1, -1, -1)
            result.positives.append(
                sum(
                    self.memory**age * found[g]
                    for age, found in zip(ages, self.positives, strict=True)
                )
            )
        return result

    def normalised(self, proposal: Vector, now: Pooled) -> Vector:
        """Scale, clip and scale the groups that have had enough positives; 1 for the others."""
        live = [
            g
            for g in range(self.n)
            if now.positives[g] > 0 and sum(found[g] for found in self.positives) >= self.least
        ]
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
                    weights[g] = min(max(weights[g], self.clip[0]), self.clip[1])
        return list(weights.values())
