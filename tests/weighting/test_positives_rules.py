"""Weights of groups of positives, compared with closed forms: means, shares, limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from positives_traces import feed, of_class, trace
from scheme_lists import OF_POSITIVES

from scalewise.weighting import LossBalancer, Share

COUNTS = torch.tensor([[4, 2, 0], [1, 6, 3], [5, 5, 1], [2, 0, 1]])


def test_objects_that_cost_the_same_have_one_mean_however_many_there_are() -> None:
    """Means are the losses per object, though losses are divided by the number of all objects."""
    cost = torch.tensor([1.0, 2.0, 8.0])
    losses = COUNTS * cost / COUNTS.sum(1, keepdim=True)
    balancer = of_class(3, "avw", interval=4)
    for row, positives in zip(losses, COUNTS, strict=True):
        balancer(row, positives)
    found = balancer.statistics
    assert found.positives is not None
    torch.testing.assert_close(found.mean, cost)
    share = COUNTS / COUNTS.sum(1, keepdim=True)
    torch.testing.assert_close(found.variance, (cost * share).var(0) / share.mean(0).square())
    assert found.count.tolist() == [4, 3, 3]
    assert found.positives.tolist() == COUNTS.sum(0).tolist()
    # the means times the shares of the positives add up to the whole loss
    shares = COUNTS / COUNTS.sum(1, keepdim=True)
    torch.testing.assert_close((shares * found.mean).sum(1), losses.sum(1))
    assert balancer.skipped.tolist() == [0, 0, 0]


@pytest.mark.parametrize("normalize", ["positives", "loss", "mean"])
@pytest.mark.parametrize("name", ["share", "loss", "avw", "cov", "dwa", "inverse"])
def test_a_group_without_positives_weighs_one_and_is_no_part_of_the_normalisation(
    name: str, normalize: Any
) -> None:
    losses, positives = trace(1, 60, 3, [])
    with_it = of_class(4, name, 6, normalize)
    without = of_class(3, name, 6, normalize)
    for row, count in zip(losses, positives, strict=True):
        with_it(torch.from_numpy(np.append(row, row[:1])), torch.tensor([*count.tolist(), 0]))
        without(torch.from_numpy(row), torch.from_numpy(count))
        assert float(with_it.weights[3]) == 1
    torch.testing.assert_close(with_it.weights[:3], without.weights)
    assert float(without.weights.std()) > 0.01


@pytest.mark.parametrize("name", [n for n in OF_POSITIVES if n != "uncertainty"])
@pytest.mark.parametrize("normalize", ["positives", "loss", "mean"])
def test_what_is_to_be_kept_is_kept(name: str, normalize: Any) -> None:
    balancer = of_class(4, name, 5, normalize, clip=(0.0, math.inf))
    feed(balancer, 60)
    pooled = balancer.statistics.pooled
    assert pooled is not None
    assert pooled.positives is not None
    kept = {
        "positives": pooled.positives,
        "loss": pooled.positives * pooled.mean,
        "mean": torch.ones(4),
    }[str(normalize)]
    torch.testing.assert_close((kept * balancer.weights).sum(), kept.sum())
    assert bool((balancer.weights >= 0).all())


def test_with_power_one_every_group_has_the_same_total_weight() -> None:
    balancer = of_class(3, Share(power=1.0), 8, clip=(0.0, math.inf))
    feed(balancer, 40, fewest=1)
    pooled = balancer.statistics.pooled
    assert pooled is not None
    assert pooled.positives is not None
    totals = pooled.positives * balancer.weights
    torch.testing.assert_close(totals, totals.mean().expand(3))
    assert pooled.positives.tolist() == sorted(pooled.positives.tolist(), reverse=True)


@pytest.mark.parametrize("normalize", ["positives", "loss", "mean"])
@pytest.mark.parametrize("scheme", ["equal", "share:power=0", "loss:power=0"])
def test_equal_weights_stay_one_to_the_bit(scheme: str, normalize: Any) -> None:
    balancer = of_class(5, scheme, 3, normalize)
    losses, positives = trace(2, 60, 5, ["nan", "late"])
    for row, count in zip(losses, positives, strict=True):
        balancer(torch.from_numpy(row), torch.from_numpy(count))
        assert balancer.weights.tolist() == [1.0] * 5


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    low=st.floats(0.05, 1),
    high=st.floats(1, 20),
    normalize=st.sampled_from(["positives", "loss", "mean"]),
)
def test_no_two_weights_are_farther_apart_than_the_clip(
    seed: int, low: float, high: float, normalize: Any
) -> None:
    """The last factor is the same for all groups, so it does not change ratios of weights."""
    balancer = of_class(5, "share:power=1", 4, normalize, clip=(low, high))
    losses, positives = trace(seed, 12, 5, [])
    for row, count in zip(losses, positives, strict=True):
        balancer(torch.from_numpy(row), torch.from_numpy(count))
    pooled = balancer.statistics.pooled
    assert pooled is not None
    weights = balancer.weights[pooled.count > 0]
    assert float(weights.max() / weights.min()) <= high / low * (1 + 1e-5)


def test_clip_by_hand() -> None:
    """With 96, 3 and 1 positives, weights are clipped to 0.5, 4 and 4, then scaled to mean 1."""
    balancer = of_class(3, "share:power=1", 1, clip=(0.5, 4.0))
    balancer(torch.tensor([0.96, 0.03, 0.01]), torch.tensor([96.0, 3.0, 1.0]))
    cut = torch.tensor([0.5, 4.0, 4.0])
    kept = torch.tensor([96.0, 3.0, 1.0])
    torch.testing.assert_close(balancer.weights, cut * 100 / (cut * kept).sum())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_group_that_is_seldom_there_leaves_one_by_so_much_less(accumulate: int) -> None:
    """A group in 1/4 of the calls is in 1 - (3/4)^2 = 7/16 of random windows of two calls."""
    presence = {1: 1 / 4, 2: 7 / 16}[accumulate]
    balancer = of_class(2, "share:power=1", 40 // accumulate, "lift", accumulate)
    for step in range(40):
        there = step % 4 == 0
        balancer(torch.tensor([0.9, 0.1 * there]), torch.tensor([30, 2 * there]))
    share = 20 / (40 * 30 + 20)
    full = min(8.0, 0.5 / share)  # each group has half of the total weight
    expected = torch.tensor([1.0, 1 + presence * (full - 1)])
    torch.testing.assert_close(balancer.weights, expected)


def test_a_group_keeps_its_moments_between_two_appearances() -> None:
    balancer = of_class(2, "loss", 1)
    balancer(torch.tensor([0.5, 2.0]), torch.tensor([1, 1]))
    first = balancer.statistics.pooled
    for _ in range(30):
        balancer(torch.tensor([1.0, 0.0]), torch.tensor([2, 0]))
    last = balancer.statistics.pooled
    assert first is not None
    assert last is not None
    assert float(first.mean[1]) == 4
    assert float(last.mean[1]) == pytest.approx(4, rel=1e-5)
    assert balancer.statistics.count.tolist() == [1, 0]
    assert float(balancer.weights[1] / balancer.weights[0]) > 1


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_a_loss_that_falls_steadily_is_calm_however_far_it_falls(memory: float) -> None:
    """The variance is that within intervals of ten steps, not that of all hundred."""
    balancer = of_class(2, "avw", 10, memory=memory)
    for step in range(100):
        noise = 0.5 * (-1) ** step
        balancer(torch.tensor([20 - 0.1 * step, 9 + noise]) / 2, torch.tensor([1, 1]))
    pooled = balancer.statistics.pooled
    assert pooled is not None
    expected = torch.tensor([0.1**2 * 10 * 11 / 12, 0.5**2 * 10 / 9])
    torch.testing.assert_close(pooled.variance, expected, rtol=1e-3, atol=0)


def test_by_default_variance_weighs_in_proportion_to_the_deviation() -> None:
    balancer = of_class(3, "avw", 8, clip=(0.0, math.inf))
    feed(balancer, 64, fewest=1)
    pooled = balancer.statistics.pooled
    assert pooled is not None
    ratio = balancer.weights / pooled.variance.sqrt()
    torch.testing.assert_close(ratio, ratio.mean().expand(3), rtol=1e-4, atol=0)


def test_a_group_that_never_comes_back_does_not_stop_the_others() -> None:
    balancer = of_class(2, "share:power=1", 1)
    balancer(torch.tensor([0.5, 0.5]), torch.tensor([1, 1]))
    for _ in range(1100):
        balancer(torch.tensor([1.0, 0.0]), torch.tensor([2, 0]))
    assert int(balancer.rejected) == 0


@pytest.mark.parametrize("words", ["class:b=2:c=0.5", "class:c=0"])
def test_given_weights_are_exact_from_the_first_call(words: str) -> None:
    expected = {"class:b=2:c=0.5": [1.0, 2.0, 0.5], "class:c=0": [1.0, 1.0, 0.0]}[words]
    balancer = of_class(["a", "b", "c"], words, 2)
    losses, positives = trace(3, 20, 3, [])
    for row, count in zip(losses, positives, strict=True):
        assert balancer.weights.tolist() == expected
        total = balancer(torch.from_numpy(np.append(row, np.float32(3))), torch.from_numpy(count))
        torch.testing.assert_close(total, torch.from_numpy(row) @ torch.tensor(expected) + 3)
    assert balancer.scheme.name == words
    assert balancer.intervals == 10


def test_given_names_may_hold_spaces() -> None:
    balancer = LossBalancer(["small cat", "large cat"], "size:small cat=1.5", by="size")
    assert balancer.weights.tolist() == [1.5, 1.0]


def test_lifting_takes_from_no_group() -> None:
    """With "lift", weights below 1 become 1; the others are as with "positives"."""
    draw = torch.Generator().manual_seed(5)
    kept, lifted = (of_class(4, "share", 5, normalize=how) for how in ("positives", "lift"))
    for _ in range(40):
        positives = 1 + torch.poisson(torch.tensor([60.0, 20.0, 5.0, 1.0]), generator=draw)
        losses = torch.rand(4, generator=draw) * positives / positives.sum()
        kept(losses, positives)
        lifted(losses, positives)
    assert float(kept.weights.min()) < 0.8
    torch.testing.assert_close(lifted.weights, kept.weights.clamp(min=1.0))
