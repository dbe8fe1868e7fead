"""What the seeds of a study say about a scheme: paired differences with their uncertainty.

All values are metrics in 0..1; texts speak of points, hundredths of that range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 1000
_FAR = 100.0  # noncentrality at which the power is 1, and beyond which scipy's tail may be nan
_ROUNDING = 1e-12  # a spread of differences below this is rounding, not training


class Interval(NamedTuple):
    """A 95% interval.

    Examples:
        >>> from scalewise.lab.study.statistics import Interval
        >>> Interval(0.01, 0.03).high
        0.03
    """

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A scheme alone.

    Attributes:
        scheme: its words.
        seeds: those with a finite value, ascending.
        mean: over these; NaN without any.
        deviation: sample standard deviation; NaN below two seeds.

    Examples:
        >>> from scalewise.lab.study.statistics import summarize
        >>> ap = {"equal": {0: 0.47, 1: 0.48, 2: 0.47}, "avw": {0: 0.50, 1: 0.52, 2: 0.50}}
        >>> summarize(ap)[0].seeds
        (0, 1, 2)
    """

    scheme: str
    seeds: tuple[int, ...]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Difference:
    """A scheme against the baseline, seed by seed: scheme minus baseline.

    Attributes:
        scheme: its words.
        baseline: what it is compared with.
        seeds: those with a finite value on both sides, ascending; all else is over these.
        unpaired: seeds left out, with a finite value on one side alone.
        mean: of the scheme; NaN without any pair.
        deviation: sample standard deviation of the scheme; NaN below two pairs.
        difference: mean of the differences; NaN without any pair.
        difference_deviation: their sample standard deviation; NaN below two pairs.
        t_interval: Student's t; None below two pairs, or when all differences are the same.
        bca_interval: BCa bootstrap over seeds; None likewise, and below three pairs.
        improving: number of differences above 0.
        p: two-sided paired t test; None like `t_interval`, but 1 when all differences are 0.
        p_holm: corrected for the number of schemes with a p, after Holm.
        seeds_needed: see `seeds_needed`; None where that has no answer.

    Examples:
        >>> from scalewise.lab.study.statistics import paired
        >>> ap = {"equal": {0: 0.47, 1: 0.48, 2: 0.47}, "avw": {0: 0.50, 1: 0.52, 2: 0.50}}
        >>> [round(edge, 3) for edge in paired(ap, "equal")[0].t_interval]
        [0.019, 0.048]
    """

    scheme: str
    baseline: str
    seeds: tuple[int, ...]
    unpaired: tuple[int, ...]
    mean: float
    deviation: float
    difference: float
    difference_deviation: float
    t_interval: Interval | None
    bca_interval: Interval | None
    improving: int
    p: float | None
    p_holm: float | None
    seeds_needed: int | None


def summarize(values: Mapping[str, Mapping[int, float]]) -> list[Summary]:
    """Mean and spread of each scheme over its own seeds.

    Args:
        values: metric by scheme and seed; values that are not finite count as absent.

    Examples:
        >>> from scalewise.lab.study.statistics import summarize
        >>> ap = {"equal": {0: 0.47, 1: 0.48, 2: 0.47}, "avw": {0: 0.50, 1: 0.52, 2: 0.50}}
        >>> [(found.scheme, round(found.mean, 3)) for found in summarize(ap)]
        [('equal', 0.473), ('avw', 0.507)]
    """
    result = []
    for scheme, by_seed in values.items():
        finite = _finite(by_seed)
        result.append(Summary(scheme, tuple(finite), *_moments(np.array(list(finite.values())))))
    return result


def paired(values: Mapping[str, Mapping[int, float]], baseline: str) -> list[Difference]:
    """Compare every other scheme with the baseline over the seeds that both have.

    Args:
        values: metric by scheme and seed; values that are not finite count as absent.
        baseline: one of the schemes.

    Returns:
        One entry per scheme but the baseline, in order.

    Raises:
        KeyError: when `baseline` has no values.

    Examples:
        >>> from scalewise.lab.study.statistics import paired
        >>> ap = {"equal": {0: 0.47, 1: 0.48, 2: 0.47}, "avw": {0: 0.50, 1: 0.52, 2: 0.50}}
        >>> (found,) = paired(ap, "equal")
        >>> round(found.difference, 3), found.improving
        (0.033, 3)
    """
    base = _finite(values[baseline])
    found = [
        _compare(scheme, _finite(by_seed), baseline, base)
        for scheme, by_seed in values.items()
        if scheme != baseline
    ]
    tested = [difference.p for difference in found if difference.p is not None]
    corrected = iter(holm(tested).tolist())
    return [
        replace(difference, p_holm=None if difference.p is None else next(corrected))
        for difference in found
    ]


def _compare(
    scheme: str, own: dict[int, float], baseline: str, base: dict[int, float]
) -> Difference:
    seeds = tuple(sorted(own.keys() & base.keys()))
    of_scheme = np.array([own[seed] for seed in seeds])
    differences = of_scheme - np.array([base[seed] for seed in seeds])
    mean, deviation = _moments(of_scheme)
    difference, spread = _moments(differences)
    varies = len(seeds) > 1 and spread > _ROUNDING
    nothing = len(seeds) > 1 and not varies and abs(difference) <= _ROUNDING
    return Difference(
        scheme=scheme,
        baseline=baseline,
        seeds=seeds,
        unpaired=tuple(sorted(own.keys() ^ base.keys())),
        mean=mean,
        deviation=deviation,
        difference=difference,
        difference_deviation=spread,
        t_interval=t_interval(differences) if varies else None,
        bca_interval=bca_interval(differences) if varies else None,
        improving=int((differences > _ROUNDING).sum()),
        p=float(stats.ttest_1samp(differences, 0).pvalue) if varies else 1.0 if nothing else None,
        p_holm=None,
        seeds_needed=seeds_needed(difference, spread) if varies else None,
    )


def _finite(by_seed: Mapping[int, float]) -> dict[int, float]:
    return {seed: by_seed[seed] for seed in sorted(by_seed) if np.isfinite(by_seed[seed])}


def _moments(values: Floats) -> tuple[float, float]:
    """Mean and sample standard deviation, NaN where there are too few values."""
    mean = float(values.mean()) if len(values) else float("nan")
    return mean, float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def t_interval(differences: Floats) -> Interval:
    """Student's 95% interval of the mean of n >= 2 differences [n] that vary.

    Examples:
        >>> import numpy as np
        >>> from scalewise.lab.study.statistics import t_interval
        >>> [round(edge, 2) for edge in t_interval(np.array([1.0, 2.0, 3.0]))]
        [-0.48, 4.48]
    """
    half = stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences)
    mean = float(differences.mean())
    return Interval(mean - float(half), mean + float(half))


def bca_interval(differences: Floats, resamples: int = 9999) -> Interval | None:
    """Bootstrap 95% interval of the mean of differences [n], bias-corrected and accelerated.

    Too narrow with few seeds: over 3000 draws of normal differences it held the true mean in 74%
    with 3 seeds, 84% with 5, 89% with 10, 93% with 20 and with 30; Student's t in 94 to 96% with
    each. With skewed (exponential) differences 81% against 88% with 5 seeds, 93% for both with 30.

    Returns:
        The interval, the same at every call; None below three differences, or when the resampled
        means are too few to tell.

    Examples:
        >>> import numpy as np
        >>> from scalewise.lab.study.statistics import bca_interval
        >>> low, high = bca_interval(np.array([1.0, 2.0, 3.0, 5.0]))
        >>> 1 <= low < high <= 5
        True
        >>> bca_interval(np.array([1.0, 2.0])) is None
        True
    """
    if len(differences) < 3:
        return None
    low, high = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        method="BCa",
        confidence_level=LEVEL,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(low), float(high)) if np.isfinite([low, high]).all() else None


def holm(p: Sequence[float]) -> Floats:
    """Correct p values for their number, after Holm (1979).

    The i-th smallest of m is multiplied by m - i + 1, is at least the one before it, at most 1.

    Returns:
        float64 [m], in the order given.

    Examples:
        >>> from scalewise.lab.study.statistics import holm
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty_like(values)
    result[order] = steps.clip(max=1)
    return result


def seeds_needed(difference: float, deviation: float) -> int | None:
    """Fewest seeds with which a paired t test would likely see a difference.

    That is 80% power of the two-sided test at 5%, taking the observed difference and deviation for
    the true ones, which with few seeds they are not: read it as an order of magnitude.

    Args:
        difference: mean of the paired differences.
        deviation: their standard deviation, above 0.

    Returns:
        2 or more; `MOST_SEEDS` + 1 stands for more than `MOST_SEEDS`; None for a difference of 0.

    Examples:
        >>> from scalewise.lab.study.statistics import seeds_needed
        >>> seeds_needed(difference=0.03, deviation=0.02)
        6
    """
    if abs(difference) <= _ROUNDING:
        return None
    seeds = np.arange(2, MOST_SEEDS + 1)
    shift = np.sqrt(seeds) * abs(difference) / deviation
    critical = stats.t.ppf((1 + LEVEL) / 2, seeds - 1)
    power = stats.nct.sf(critical, seeds - 1, shift.clip(max=_FAR))
    enough = np.flatnonzero(power >= POWER)
    return int(seeds[enough[0]]) if len(enough) else MOST_SEEDS + 1
