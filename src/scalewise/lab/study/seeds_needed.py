"""Computes how many seeds are needed to detect a difference."""

from __future__ import annotations

import numpy as np
from scipy import stats

from scalewise.lab.study.intervals import LEVEL

POWER = 0.8
MOST_SEEDS = 1000
_FAR = 100.0  # noncentrality with a power of 1; beyond it scipy may return NaN
ROUNDING = 1e-12  # smaller differences, and spreads of them, come from rounding


def seeds_needed(difference: float, deviation: float) -> int | None:
    """The smallest number of seeds with which a paired t test would probably detect a difference.

    "Probably" means a power of 80% of the two-sided test at the 5% level. The observed difference
    and deviation are taken for the true ones. With few seeds they are far from these, so the result
    is only an order of magnitude.

    Args:
        difference: mean of the paired differences.
        deviation: their standard deviation, above 0.

    Returns:
        A number of at least 2; `MOST_SEEDS` + 1 means more than `MOST_SEEDS`; None for a difference
        of 0.

    Examples:
        >>> from scalewise.lab.study.seeds_needed import seeds_needed
        >>> seeds_needed(difference=0.03, deviation=0.02)
        6
    """
    if abs(difference) <= ROUNDING:
        return None
    seeds = np.arange(2, MOST_SEEDS + 1)
    shift = np.sqrt(seeds) * abs(difference) / deviation
    critical = stats.t.ppf((1 + LEVEL) / 2, seeds - 1)
    power = stats.nct.sf(critical, seeds - 1, shift.clip(max=_FAR))
    enough = np.flatnonzero(power >= POWER)
    return int(seeds[enough[0]]) if len(enough) else MOST_SEEDS + 1
