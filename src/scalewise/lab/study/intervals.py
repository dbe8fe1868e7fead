"""Confidence intervals of means."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
LEVEL = 0.95


class Interval(NamedTuple):
    """A 95% interval.

    Examples:
        >>> from scalewise.lab.study.intervals import Interval
        >>> Interval(0.01, 0.03).high
        0.03
    """

    low: float
    high: float


def t_interval(differences: Floats) -> Interval:
    """Student's 95% interval of the mean of n >= 2 differences [n], which must not all be equal.

    Examples:
        >>> import numpy as np
        >>> from scalewise.lab.study.intervals import t_interval
        >>> [round(edge, 2) for edge in t_interval(np.array([1.0, 2.0, 3.0]))]
        [-0.48, 4.48]
    """
    half = stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences)
    mean = float(differences.mean())
    return Interval(mean - float(half), mean + float(half))


def bca_interval(differences: Floats, resamples: int = 9999) -> Interval | None:
    """Bootstrap 95% interval of the mean of differences [n], bias-corrected and accelerated.

    It is too narrow with few seeds. In 3000 draws of normal differences it contained the true mean
    in 74% of the draws with 3 seeds, 84% with 5, 89% with 10, and 93% with 20 and with 30;
    Student's t interval did in 94 to 96% with each number. With skewed (exponential) differences
    it was 81% (Student's t: 88%) with 5 seeds, and 93% for both with 30.

    Returns:
        The interval, the same at every call; None for fewer than three differences, or if the
        resampled means differ too little to compute it.

    Examples:
        >>> import numpy as np
        >>> from scalewise.lab.study.intervals import bca_interval
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
