from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalewise.weighting.moments import (
    POOLED,
    ROWS,
    finish_pooled,
    is_finite,
    merge,
    moments_of,
    pool,
    pool_interval,
    summarize,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    blocks=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    n=st.integers(1, 6),
    kept=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
def test_merged_blocks_equal_numpy_over_all_values(
    seed: int, blocks: list[int], n: int, kept: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = sum(blocks)
    values = (rng.lognormal(0, 1, (rows, n)) * 10.0 ** rng.integers(-3, 3, n)).astype(np.float32)
    keep = rng.random((rows, n)) < kept
    parts = [
        summarize(v, torch.ones_like(k), ~k)
        for v, k in zip(
            torch.split(torch.from_numpy(values), blocks),
            torch.split(torch.from_numpy(keep), blocks),
            strict=True,
        )
    ]
    moments = moments_of(merge(torch.stack(parts)))
    for level in range(n):
        chosen = values[keep[:, level], level].astype(np.float64)
        assert moments.count[level] == len(chosen)
        mean = chosen.mean() if len(chosen) else 0.0
        variance = chosen.var(ddof=1) if len(chosen) > 1 else 0.0
        assert float(moments.mean[level]) == pytest.approx(mean, rel=1e-5)
        assert float(moments.variance[level]) == pytest.approx(variance, rel=1e-4)


@given(value=st.floats(2.0**-20, 2.0**20, width=32), count=st.integers(2, 128))
def test_a_constant_loss_has_no_variance(value: float, count: int) -> None:
    values = torch.full((count, 1), value)
    everything = torch.ones_like(values, dtype=torch.bool)
    part = summarize(values, everything, ~everything)
    whole = moments_of(merge(torch.stack((part, part, part))))
    assert float(moments_of(part).variance) == 0
    assert float(whole.variance) == 0
    assert float(whole.mean) == pytest.approx(value, rel=1e-6)


def test_a_small_true_spread_survives() -> None:
    values = 1 + 1e-4 * torch.arange(100.0).unsqueeze(1) / 100
    everything = torch.ones_like(values, dtype=torch.bool)
    moments = moments_of(summarize(values, everything, ~everything))
    assert float(moments.variance) == pytest.approx(float(values.double().var()), rel=1e-2)


def test_is_finite_agrees_with_torch() -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -3e38, torch.inf, -torch.inf, torch.nan, 1e-45])
    assert torch.equal(is_finite(values), values.isfinite())


def test_an_interval_pooled_in_one_batch_is_to_the_bit_what_single_steps_give() -> None:
    torch.manual_seed(0)
    past = torch.zeros(POOLED, 7)
    for _ in range(3):
        partial = torch.rand(ROWS, 7) * torch.tensor([0.0, 1, 2, 3, 4, 5, 6])
        after, alone, pooled, before = pool_interval(past, partial, 0.9)
        assert torch.equal(after, pool(past, partial, 0.9))
        for found, rows in (
            (alone, pool(torch.zeros(POOLED, 7), partial, 0.0)),
            (pooled, after),
            (before, past),
        ):
            expected = finish_pooled(rows)
            for name in ("count", "mean", "variance", "positives", "presence"):
                assert torch.equal(getattr(found, name), getattr(expected, name)), name
        past = after
