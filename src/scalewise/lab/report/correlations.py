"""Correlations between the losses of groups, and each group's shares."""

from __future__ import annotations

import numpy as np

from scalewise.lab.report.smoothing import smoothed
from scalewise.lab.report.trace_series import Floats, GroupTrace

LEAST_ROWS = 10


def group_shares(trace: GroupTrace, grams: Floats | None) -> dict[str, Floats]:
    """Each group's share of some sums over the whole run.

    Args:
        trace: The trace of the run.
        grams: float64 [m, n, n], inner products of the groups' gradients; None if not measured.

    Returns:
        For each quantity, by name, float64 [n] with a sum of 1. A quantity without a positive sum
        is left out.
    """
    losses = np.where(np.isfinite(trace.losses), trace.losses, 0.0)
    sums = {"loss": losses.sum(0), "loss × weight": (losses * trace.weights).sum(0)}
    if trace.positives is not None:
        sums["positives"] = trace.positives.sum(0)
    if grams is not None:
        norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))  # [m, n]
        sums["gradient norm"] = np.where(np.isfinite(norms), norms, 0.0).sum(0)
    return {name: total / total.sum() for name, total in sums.items() if total.sum() > 0}


def correlation(values: Floats) -> Floats:
    """Pearson's correlation between columns, float64 [n, n], over rows that are finite everywhere.

    NaN for a column that does not vary, and everywhere if there are fewer than three such rows.
    """
    rows = values[np.isfinite(values).all(1)]
    count = values.shape[1]
    if len(rows) < 3:
        return np.full((count, count), np.nan)
    off = rows - rows.mean(0)
    norm = np.sqrt((off**2).sum(0))
    norm = np.where(norm > 1e-12 * np.abs(rows).max(0), norm, np.nan)
    matrix: Floats = np.clip((off.T @ off) / np.outer(norm, norm), -1, 1)
    return matrix


def pairwise_correlation(values: Floats) -> Floats:
    """Correlation of each pair of columns over the rows where both are finite, float64 [n, n].

    NaN for a pair with fewer than `LEAST_ROWS` such rows: too few for a correlation.
    """
    count = values.shape[1]
    matrix = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(i, count):
            pair = values[:, [i, j]]
            if np.isfinite(pair).all(1).sum() >= LEAST_ROWS:
                matrix[i, j] = matrix[j, i] = correlation(pair)[0, 1]
    return matrix


def detrended(values: Floats) -> Floats:
    """Columns minus their moving average over 1/50 of the rows (at least 5); same shape."""
    return values - smoothed(values, max(5, len(values) // 50))


def mean_cosine(grams: Floats) -> Floats:
    """Mean cosine between the groups' gradients, float64 [n, n]; NaN if never both have one."""
    norms = np.sqrt(np.diagonal(grams, axis1=1, axis2=2))  # [m, n]
    product = norms[:, :, None] * norms[:, None, :]
    sound = np.isfinite(product) & (product > 0)
    cosine = np.divide(grams, product, out=np.zeros_like(grams), where=sound)
    count = sound.sum(0)
    return np.where(count > 0, cosine.sum(0) / np.maximum(count, 1), np.nan)
