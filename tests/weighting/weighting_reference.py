"""A second, simple implementation of the method in NumPy, float64 and loops, for comparison.

It follows the definition of the method, not the code, and keeps all values of an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

NAN = float("nan")
Vector = list[float]


@dataclass
class Stats:
    count: Vector
    mean: Vector
    variance: Vector


def stats_of(rows: Sequence[Sequence[float]], n: int) -> Stats:
    """Moments of each level over rows; NaN marks values that are left out."""
    result = Stats([], [], [])
    for level in range(n):
        values = [row[level] for row in rows if math.isfinite(row[level])]
        mean = sum(values) / len(values) if values else 0.0
        variance = (
            sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else 0.0
        )
        if variance <= (16 * 2.0**-23 * mean) ** 2:
            variance = 0.0
        result.count.append(float(len(values)))
        result.mean.append(mean)
        result.variance.append(variance)
    return result


def log(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x == 0 else NAN)


def softmax_among(scores: Vector, live: list[bool], temperature: float = 1.0) -> Vector:
    """The number of live levels times the softmax over them; 1 for other levels."""
    chosen = [s / temperature for s, alive in zip(scores, live, strict=True) if alive]
    if not chosen:
        return [1.0] * len(scores)
    top = max(chosen)
    total = sum(math.exp(s - top) for s in chosen)
    return [
        len(chosen) * math.exp(s / temperature - top) / total if alive else 1.0
        for s, alive in zip(scores, live, strict=True)
    ]


def proportional_among(scores: Vector, live: list[bool]) -> Vector:
    chosen = [s for s, alive in zip(scores, live, strict=True) if alive]
    total = sum(chosen)
    if not total > 0:
        return [1.0] * len(scores)
    return [
        s / total * len(chosen) if alive else 1.0 for s, alive in zip(scores, live, strict=True)
    ]


class RefEqual:
    def propose(self, current: Stats, previous: Stats) -> Vector:
        return [1.0] * len(current.mean)


@dataclass
class RefAVW:
    signal: str = "decline"
    temperature: float = 1.0
    strength: float = 0.5
    momentum: float = 0.9
    invert: bool = False
    min_share: float = 0.0
    z: dict[int, float] = field(default_factory=dict)

    def score(self, i: int, current: Stats, previous: Stats) -> float:
        if current.variance[i] == 0:
            return NAN
        if self.signal == "decline":
            if previous.variance[i] == 0:
                return NAN
            return log(previous.variance[i]) - log(current.variance[i])
        if self.signal == "magnitude":
            return log(current.variance[i])
        if current.mean[i] <= 0:
            return NAN
        return log(math.sqrt(current.variance[i]) / current.mean[i])

    def propose(self, current: Stats, previous: Stats) -> Vector:
        total, loss = sum(current.mean), current.mean
        n = len(current.mean)
        for i in range(n):
            s = self.score(i, current, previous)
            if math.isfinite(s):
                s = -s if self.invert else s
                old = self.z.get(i, s)
                self.z[i] = self.momentum * old + (1 - self.momentum) * s
        shares = softmax_among(
            [self.z.get(i, 0.0) for i in range(n)],
            [i in self.z and loss[i] >= self.min_share * total for i in range(n)],
            self.temperature,
        )
        return [1 + self.strength * (w - 1) for w in shares]


class RefDWA:
    def propose(self, current: Stats, previous: Stats) -> Vector:
        live = [
            c > 0 and p > 0 and m > 0
            for c, p, m in zip(current.count, previous.count, previous.mean, strict=True)
        ]
        ratio = [
            m / q if alive else 0.0
            for m, q, alive in zip(current.mean, previous.mean, live, strict=True)
        ]
        return softmax_among(ratio, live, 2.0)


@dataclass
class RefInverse:
    average: dict[int, float] = field(default_factory=dict)

    def propose(self, current: Stats, previous: Stats) -> Vector:
        n = len(current.mean)
        for i in range(n):
            if current.count[i] > 0:
                old = self.average.get(i, current.mean[i])
                self.average[i] = 0.9 * old + 0.1 * current.mean[i]
        live = [self.average.get(i, 0.0) > 0 for i in range(n)]
        return proportional_among([1 / self.average[i] if live[i] else 0.0 for i in range(n)], live)


@dataclass
class RefCoV:
    """Keeps (count, mean) of every interval, and every ratio."""

    history: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    ratios: dict[int, list[float]] = field(default_factory=dict)

    def propose(self, current: Stats, previous: Stats) -> Vector:
        n = len(current.mean)
        scores, live = [0.0] * n, [False] * n
        for i in range(n):
            past, ratios = self.history.setdefault(i, []), self.ratios.setdefault(i, [])
            if current.count[i] > 0:
                if not past:
                    ratios.append(1.0)
                else:
                    before = sum(c * m for c, m in past) / sum(c for c, _ in past)
                    if before > 0:
                        ratios.append(current.mean[i] / before)
                past.append((current.count[i], current.mean[i]))
            if len(ratios) >= 2 and np.mean(ratios) > 0:
                live[i] = True
                scores[i] = float(np.std(ratios) / np.mean(ratios))
        return proportional_among(scores, live)


class RefStream:
    """SplitMix64 with Python integers."""

    MASK = (1 << 64) - 1

    def __init__(self, seed: int) -> None:
        self.state = self.child(seed, 0)

    @classmethod
    def scramble(cls, z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & cls.MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & cls.MASK
        return z ^ (z >> 31)

    @classmethod
    def child(cls, seed: int, index: int) -> int:
        return cls.scramble((seed + (index + 1) * 0x9E3779B97F4A7C15) & cls.MASK) >> 1

    def uniform(self) -> float:
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        return ((self.scramble(self.state) >> 41) + 0.5) / 2**23


class RefRandom:
    def __init__(self, seed: int) -> None:
        self.stream = RefStream(seed)

    def propose(self, current: Stats, previous: Stats) -> Vector:
        n = len(current.mean)
        radius = [self.stream.uniform() for _ in range(n)]
        angle = [self.stream.uniform() for _ in range(n)]
        normal = [
            math.sqrt(-2 * math.log(r)) * math.cos(2 * math.pi * a)
            for r, a in zip(radius, angle, strict=True)
        ]
        return softmax_among(normal, [True] * n)


@dataclass
class RefRLO:
    actions: list[RefEqual | RefAVW | RefCoV]
    seed: int
    eta: float = 0.1
    explore: float = 0.1
    clip: float = 2.0
    memory: float = 0.9

    def __post_init__(self) -> None:
        self.h = [0.0] * len(self.actions)
        self.b: float | None = None
        self.d: float | None = None
        self.action: int | None = None
        self.stream = RefStream(RefStream.child(self.seed, 0))

    def policy(self) -> Vector:
        k = len(self.h)
        soft = softmax_among(self.h, [True] * k)
        return [(1 - self.explore) * s / k + self.explore / k for s in soft]

    def learn(self, current: Stats, previous: Stats) -> None:
        both = [
            i for i in range(len(current.mean)) if current.count[i] > 0 and previous.count[i] > 0
        ]
        before = sum(previous.mean[i] for i in both)
        after = sum(current.mean[i] for i in both)
        if self.action is None or before <= 0 or after <= 0:
            return
        reward = math.log(before) - math.log(after)
        if self.b is None:
            self.b = reward
            return
        gap = reward - self.b
        if self.d is None:
            self.d = abs(gap)
        else:
            advantage = max(-self.clip, min(self.clip, gap / self.d)) if self.d else 0.0
            policy = self.policy()
            for a in range(len(self.h)):
                self.h[a] += self.eta * advantage * ((a == self.action) - policy[a])
            self.d = self.memory * self.d + (1 - self.memory) * abs(gap)
        self.b = self.memory * self.b + (1 - self.memory) * reward

    def propose(self, current: Stats, previous: Stats) -> Vector:
        self.learn(current, previous)
        proposals = [action.propose(current, previous) for action in self.actions]
        u, reached, self.action = self.stream.uniform(), 0.0, 0
        for a, p in enumerate(self.policy()):
            self.action = a
            reached += p
            if u < reached:
                break
        return proposals[self.action]


class RefBalancer:
    """Weights after each call, by definition."""

    def __init__(
        self,
        n: int,
        propose: Callable[[Stats, Stats], Vector],
        interval: int,
        normalize: str,
        accumulate: int = 1,
        guard: float | None = 10.0,
    ) -> None:
        self.n, self.propose, self.normalize = n, propose, normalize
        self.period, self.guard = interval * accumulate, guard
        self.weights = [1.0] * n
        self.skipped, self.outliers = [0] * n, [0] * n
        nothing = [0.0] * n
        self.previous = Stats(nothing, nothing, nothing)
        self.seen: list[list[float]] = []  # losses of all calls
        self.open: list[list[float]] = []  # losses of this interval

    def call(self, losses: Sequence[float]) -> float:
        total = sum(w * x for w, x in zip(self.weights, losses, strict=True))
        self.seen.append(list(losses))
        self.open.append(list(losses))
        if len(self.open) % 128 == 0 or len(self.open) == self.period:
            self.judge()
        if len(self.open) == self.period:
            self.end()
        return total

    def judge(self) -> None:
        """Count broken values and outliers in the rows since the last call; set outliers to NaN."""
        fresh = (len(self.open) - 1) % 128 + 1
        totals = [sum(x for x in row if math.isfinite(x)) for row in self.seen[-128:]]
        median = sorted(totals)[(len(totals) - 1) // 2]
        for row, total in zip(self.open[-fresh:], totals[-fresh:], strict=True):
            exploded = self.guard is not None and median > 0 and total > self.guard * median
            for i in range(self.n):
                if not math.isfinite(row[i]):
                    self.skipped[i] += 1
                elif exploded:
                    self.outliers[i] += 1
                    row[i] = NAN

    def end(self) -> None:
        current = stats_of(self.open, self.n)
        weights = self.propose(current, self.previous)
        if self.normalize == "loss":
            before = sum(current.mean)
            after = sum(w * m for w, m in zip(weights, current.mean, strict=True))
            factor = before / after if after > 0 and before > 0 else 1.0
            weights = [w * factor for w in weights]
        self.weights, self.previous, self.open = weights, current, []
