"""Puts the results of a comparison into words that do not claim more than they show."""

from __future__ import annotations

import math

from scalewise.lab.study.intervals import Interval
from scalewise.lab.study.seeds_needed import MOST_SEEDS
from scalewise.lab.study.statistics import Difference

FEW = 10
MANY = 30
_BCA_COVERAGE = {3: 74, 4: 80, 5: 84, 7: 87, 10: 89, 15: 92, 20: 93, 30: 93}  # see bca_interval


def advice(seeds: int) -> str:
    """Say which interval to trust with this number of paired seeds, and why."""
    if seeds < 2:
        return (
            f"{_count(seeds)}: no interval. How far a retrained model would fall from these "
            "figures is unknown until there are two seeds or more of both schemes."
        )
    if seeds == 2:
        return (
            "2 seeds: Student's t is the interval to read, and it is wide because two values say "
            "little about their spread; a bootstrap over two values means nothing."
        )
    covered = _BCA_COVERAGE[max(n for n in _BCA_COVERAGE if n <= seeds)]
    if seeds < FEW:
        return (
            f"{seeds} seeds: trust Student's t. The bootstrap cannot draw what so few seeds have "
            f"not shown and is too narrow: with normal differences BCa holds the truth in about "
            f"{covered}% of studies of this size instead of 95%, t in 95%."
        )
    if seeds < MANY:
        return (
            f"{seeds} seeds: trust Student's t first. BCa is still somewhat narrow (about "
            f"{covered}% instead of 95% with normal differences); where the two part widely, the "
            "differences are skewed and both are too narrow."
        )
    return (
        f"{seeds} seeds: both can be trusted about alike (BCa {covered}%, t 95% with normal "
        "differences, both some percent less with skewed ones); BCa follows a skew that t ignores."
    )


def verdict(difference: Difference, metric: str = "AP") -> str:
    """Say in one sentence what a comparison showed.

    The sentence says "higher" or "lower" only if Student's interval does not contain 0.
    """
    scheme, baseline, n = difference.scheme, difference.baseline, len(difference.seeds)
    if n == 0:
        return f"{scheme}: no seed with {metric} on both sides, nothing to compare with {baseline}."
    by = f"{points(difference.difference)} points"
    if n == 1:
        return (
            f"{scheme}: {metric} {by} from {baseline} with the one seed that both have; one seed "
            "gives no interval, so this says nothing of others."
        )
    if difference.t_interval is None:
        if difference.p is not None:
            return f"{scheme}: {metric} the same as with {baseline} in all {n} seeds."
        return (
            f"{scheme}: {metric} {by} from {baseline} in each of {n} seeds alike; without a "
            "spread there is no interval."
        )
    low, high = difference.t_interval
    shown = f"{interval_points(difference.t_interval)} (Student's t, {n} seeds)"
    if low <= 0 <= high:
        return (
            f"{scheme}: {metric} {by} from {baseline}, 95% interval {shown}; it holds 0, so the "
            "direction is open."
        )
    sentence = (
        f"{scheme}: {metric} {'higher' if low > 0 else 'lower'} than with {baseline}, {by}, 95% "
        f"interval {shown}"
    )
    if difference.p_holm is not None and difference.p_holm > 0.05:
        sentence += (
            f"; corrected for the number of schemes p is {difference.p_holm:.2g}, not below 0.05"
        )
    return f"{sentence}."


def points(value: float) -> str:
    """A signed difference in points, such as "+0.42"; "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{100 * value:+.2f}"


def interval_points(interval: Interval | None) -> str:
    """An interval in points, such as "-0.30 to +0.54"; "n/a" for None."""
    return "n/a" if interval is None else f"{points(interval.low)} to {points(interval.high)}"


def seeds_text(needed: int | None) -> str:
    """The result of `seeds_needed` as text; "n/a" for None."""
    if needed is None:
        return "n/a"
    return f"more than {MOST_SEEDS}" if needed > MOST_SEEDS else str(needed)


def _count(seeds: int) -> str:
    return "no seed" if seeds == 0 else f"{seeds} seed"
