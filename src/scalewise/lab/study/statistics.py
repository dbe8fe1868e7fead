"""Computes what the seeds of a study say about a scheme: paired differences and uncertainty.

All values are metrics in 0..1; texts use points, which are hundredths of this range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from scalewise.lab.study.intervals import Floats, Interval, bca_interval, t_interval
from scalewise.lab.study.seeds_needed import ROUNDING, seeds_needed


@dataclass(frozen=True)
class Summary:
    """The mean and spread of one scheme.

    Attributes:
        scheme: the scheme, as `--scheme` takes it.
        seeds: the seeds with a finite value, ascending.
        mean: mean over these seeds; NaN without any.
        deviation: sample standard deviation; NaN for fewer than two seeds.

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
    """The differences of a scheme to the baseline (scheme minus baseline), paired by seed.

    Attributes:
        scheme: the scheme, as `--scheme` takes it.
        baseline: the scheme that it is compared with.
        seeds: the seeds with a finite value for both schemes, ascending; all other fields except
            `unpaired` are computed over these pairs.
        unpaired: the seeds that are left out, since only one scheme has a finite value.
        mean: mean of the scheme; NaN without any pair.
        deviation: sample standard deviation of the scheme; NaN for fewer than two pairs.
        difference: mean of the differences; NaN without any pair.
        difference_deviation: sample standard deviation of the differences; NaN for fewer than two
            pairs.
        t_interval: Student's t interval of the mean difference; None for fewer than two pairs, or
            if all differences are equal.
        bca_interval: BCa bootstrap interval over seeds; None if `t_interval` is None, and for fewer
            than three pairs.
        improving: number of differences above 0.
        p: p value of the two-sided paired t test; None if `t_interval` is None, except that it is 1
            if all differences are 0.
        p_holm: p corrected by Holm's method for the number of schemes that have a p.
        seeds_needed: see `seeds_needed`; None if all differences are equal, or their mean is 0.

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
        values: the metric, by scheme and seed; values that are not finite count as absent.

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
        values: the metric, by scheme and seed; values that are not finite count as absent.
        baseline: one of the schemes.

    Returns:
        One entry for each scheme except the baseline, in the order of `values`.

    Raises:
        KeyError: `baseline` is not in `values`.

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
    varies = len(seeds) > 1 and spread > ROUNDING
    nothing = len(seeds) > 1 and not varies and abs(difference) <= ROUNDING
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
        improving=int((differences > ROUNDING).sum()),
        p=float(stats.ttest_1samp(differences, 0).pvalue) if varies else 1.0 if nothing else None,
        p_holm=None,
        seeds_needed=seeds_needed(difference, spread) if varies else None,
    )


def _finite(by_seed: Mapping[int, float]) -> dict[int, float]:
    return {seed: by_seed[seed] for seed in sorted(by_seed) if np.isfinite(by_seed[seed])}


def _moments(values: Floats) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN if there are too few values."""
    mean = float(values.mean()) if len(values) else float("nan")
    return mean, float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def holm(p: Sequence[float]) -> Floats:
    """Correct p values for their number by the method of Holm (1979).

    The i-th smallest of m values is multiplied by m - i + 1, then raised to the corrected value
    before it if that is larger, and limited to 1.

    Returns:
        float64 [m], in the order of `p`.

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
