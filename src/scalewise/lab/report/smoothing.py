"""Smooths the series of a trace, and shortens them for charts."""

from __future__ import annotations

import numpy as np

from scalewise.lab.report.trace_series import Floats, GroupTrace, Integers


def blocks(length: int, most: int) -> Integers:
    """First rows of at most `most` blocks of nearly equal length, int64 [blocks]."""
    return np.unique(np.linspace(0, length, min(length, most), endpoint=False).astype(np.int64))


def block_means(values: Floats, starts: Integers) -> Floats:
    """Mean of the finite values in each block; NaN for a block without one.

    Args:
        values: float64 [s, ...].
        starts: int64 [blocks], first row of each block, from `blocks`.

    Returns:
        float64 [blocks, ...].
    """
    finite = np.isfinite(values)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts, axis=0)
    count = np.add.reduceat(finite.astype(np.float64), starts, axis=0)
    means: Floats = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means


def smoothed(values: Floats, width: int) -> Floats:
    """Moving average of the finite values of each column over `width` rows, float64 [s, n]."""
    kernel = np.ones(min(width, len(values)))
    columns = []
    for column in values.T:
        finite = np.isfinite(column)
        total = np.convolve(np.where(finite, column, 0.0), kernel, "same")
        count = np.convolve(finite.astype(np.float64), kernel, "same")
        columns.append(np.where(count > 0.5, total / np.maximum(count, 1), np.nan))
    return np.stack(columns, axis=1)


def smoothed_loss(trace: GroupTrace, width: int) -> Floats:
    """Moving average of the loss, or of the loss per positive by positives, float64 [s, n]."""
    if not trace.per_positive or trace.positives is None:
        return smoothed(trace.losses, width)
    total = trace.positives.sum(1, keepdims=True)
    counts = smoothed(np.where(np.isfinite(trace.losses), trace.positives, np.nan), width)
    mean: Floats = np.divide(
        smoothed(trace.losses * total, width),
        counts,
        out=np.full_like(counts, np.nan),
        where=counts > 1e-9,
    )
    return mean


def block_losses(trace: GroupTrace, starts: Integers) -> Floats:
    """Mean of the loss, or of the loss per positive, in each block, float64 [blocks, n].

    The loss per positive is weighted by positives; NaN for a block without any.
    """
    if not trace.per_positive or trace.positives is None:
        return block_means(trace.losses, starts)
    finite = np.isfinite(trace.compared)
    counts = np.where(finite, trace.positives, 0.0)
    total = np.add.reduceat(np.where(finite, trace.compared, 0.0) * counts, starts, axis=0)
    count = np.add.reduceat(counts, starts, axis=0)
    means: Floats = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means


def interval_variance(trace: GroupTrace) -> Floats:
    """Unbiased variance of the loss, or of the loss per positive, float64 [intervals, n].

    It is taken over the steps of each interval; NaN with fewer than two finite steps.
    """
    starts, values = trace.starts, trace.compared
    mean = block_means(values, starts)
    spans = np.diff([*starts, len(trace.steps)])
    finite = np.isfinite(values)
    off = np.where(finite, values - np.repeat(mean, spans, axis=0), 0.0)
    count = np.add.reduceat(finite.astype(np.float64), starts, axis=0)
    squares = np.add.reduceat(off**2, starts, axis=0)
    variance: Floats = np.divide(
        squares, count - 1, out=np.full_like(squares, np.nan), where=count > 1
    )
    return variance
