from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalewise.weighting import AVW, LossBalancer, Moments


def moments(variance: list[float], mean: list[float] | None = None) -> Moments:
    v = torch.tensor(variance)
    return Moments(torch.full_like(v, 10), torch.tensor(mean) if mean else torch.ones_like(v), v)


def built(scheme: AVW, n: int) -> AVW:
    LossBalancer(n, scheme)
    return scheme


NONE = Moments(torch.zeros(2), torch.zeros(2), torch.zeros(2))


def test_decline_by_hand() -> None:
    scheme = built(AVW(strength=0.5), 2)
    assert scheme.propose(moments([4.0, 1.0]), NONE).tolist() == [1.0, 1.0]
    # s = (ln 4/1, ln 1/1) = (ln 4, 0); p = (4/5, 1/5); w = 1 + 0.5 (2 p - 1)
    weights = scheme.propose(moments([1.0, 1.0]), moments([4.0, 1.0]))
    torch.testing.assert_close(weights, torch.tensor([1.3, 0.7]))
    # z = 0.9 (ln 4, 0) + 0.1 (0, ln 3)
    weights = scheme.propose(moments([1.0, 1.0]), moments([1.0, 3.0]))
    p = math.exp(0.9 * math.log(4)) / (math.exp(0.9 * math.log(4)) + math.exp(0.1 * math.log(3)))
    torch.testing.assert_close(weights, torch.tensor([0.5 + p, 1.5 - p]))


def test_dispersion_and_magnitude_by_hand() -> None:
    current = moments([4.0, 9.0], [1.0, 6.0])
    # sqrt(v)/m = (2, 1/2): p = (4/5, 1/5)
    torch.testing.assert_close(
        built(AVW("dispersion", strength=1.0), 2).propose(current, NONE), torch.tensor([1.6, 0.4])
    )
    # v = (4, 9): p = (4/13, 9/13)
    torch.testing.assert_close(
        built(AVW("magnitude", strength=1.0), 2).propose(current, NONE),
        torch.tensor([8 / 13, 18 / 13]),
    )
    # inverted: p = (1/4, 1/9) / (13/36)
    torch.testing.assert_close(
        built(AVW("magnitude", strength=1.0, invert=True), 2).propose(current, NONE),
        torch.tensor([18 / 13, 8 / 13]),
    )


@settings(max_examples=50, deadline=None)
@given(
    data=st.data(),
    n=st.integers(1, 8),
    signal=st.sampled_from(["decline", "dispersion", "magnitude"]),
    strength=st.floats(0, 1),
    temperature=st.floats(0.05, 10),
    invert=st.booleans(),
)
def test_mean_bounds_and_symmetry(
    data: Any, n: int, signal: str, strength: float, temperature: float, invert: bool
) -> None:
    value = st.one_of(st.just(0.0), st.floats(1e-12, 1e6))
    vectors = [torch.tensor(data.draw(st.lists(value, min_size=n, max_size=n))) for _ in range(4)]
    order = torch.tensor(data.draw(st.permutations(range(n))))
    count = torch.full((n,), 10.0)

    def run(permute: Tensor) -> Tensor:
        scheme = built(AVW(signal, temperature, strength, 0.5, invert), n)
        v = [vector[permute] for vector in vectors]
        scheme.propose(Moments(count, v[0], v[1]), Moments(count, v[0], v[1]))
        return scheme.propose(Moments(count, v[2], v[3]), Moments(count, v[0], v[1]))

    weights = run(torch.arange(n))
    assert float(weights.mean()) == pytest.approx(1, abs=1e-4)
    assert float(weights.min()) >= 1 - strength - 1e-5
    assert float(weights.max()) <= 1 + strength * (n - 1) + 1e-4
    torch.testing.assert_close(run(order), weights[order], rtol=1e-4, atol=1e-5)


def test_a_level_never_scored_weighs_one_and_leaves_the_others_alone() -> None:
    quiet = [0.0, 1e-20]
    for variance in quiet:
        count = torch.tensor([10.0, 10.0, 10.0 if variance else 0.0])
        current = Moments(count, torch.ones(3), torch.tensor([4.0, 9.0, 0.0]))
        weights = built(AVW("magnitude", strength=1.0), 3).propose(current, current)
        torch.testing.assert_close(weights, torch.tensor([8 / 13, 18 / 13, 1.0]))


def test_a_level_that_falls_silent_keeps_its_score() -> None:
    scheme = built(AVW("magnitude", strength=1.0, momentum=0.0), 2)
    before = scheme.propose(moments([4.0, 1.0]), NONE)
    after = scheme.propose(moments([4.0, 0.0]), NONE)
    assert torch.equal(before, after)


def test_a_dead_level_cannot_drain_the_others() -> None:
    """A level without positives gets weight 1, not a share of the softmax."""
    generator = torch.Generator().manual_seed(0)
    balancer = LossBalancer(5, AVW("magnitude", strength=1.0), interval=20, normalize="mean")
    for _ in range(100):
        losses = 1e-3 * (1 + 0.3 * torch.rand(5, generator=generator))
        losses[4] = 0
        balancer(losses)
    assert float(balancer.weights[4]) == pytest.approx(1)
    assert float(balancer.weights[:4].min()) > 0.3


def test_inverse_deviation_among_levels_with_a_share_of_the_loss() -> None:
    """Inverted magnitude, temperature 2, strength 1: weights in proportion to 1 / deviation."""
    scheme = built(AVW("magnitude", 2.0, 1.0, invert=True, min_share=0.01), 3)
    current = moments([4.0, 1.0, 1e-6], [6.0, 3.9, 0.1])  # the third has exactly 1 % of the loss
    inverse = torch.tensor([0.5, 1.0, 1000.0])
    torch.testing.assert_close(scheme.propose(current, NONE), 3 * inverse / inverse.sum())
    scheme = built(AVW("magnitude", 2.0, 1.0, invert=True, min_share=0.01), 3)
    current = moments([4.0, 1.0, 1e-6], [6.0, 3.91, 0.09])
    torch.testing.assert_close(scheme.propose(current, NONE), torch.tensor([2 / 3, 4 / 3, 1.0]))


@pytest.mark.parametrize("rare", [1e-6, 1e-3])
@pytest.mark.parametrize(("normalize", "least", "most"), [("mean", 0.5, 3.0), (None, 0.5, 6.0)])
def test_defaults_are_safe_on_a_rare_level(
    rare: float, normalize: Any, least: float, most: float
) -> None:
    """Strength 0.5 keeps weights in 0.5..3; keeping the loss can double the upper limit."""
    generator = torch.Generator().manual_seed(0)
    chosen = {} if normalize is None else {"normalize": normalize}
    balancer = LossBalancer(5, interval=50, **chosen)
    lowest, highest = torch.inf, 0.0
    for step in range(2000):
        losses = torch.rand(5, generator=generator) + 0.5
        losses[4] = 3.0 if step % 97 == 0 else rare
        balancer(losses)
        lowest = min(lowest, float(balancer.weights.min()))
        highest = max(highest, float(balancer.weights.max()))
    assert lowest >= least
    assert highest <= most


def test_a_function_as_signal() -> None:
    def by_mean(current: Moments, previous: Moments) -> Tensor:
        return current.mean.log()

    scheme = AVW(by_mean, strength=1.0)
    balancer = LossBalancer(2, scheme, interval=1, normalize="mean")
    balancer(torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(balancer.weights, torch.tensor([0.5, 1.5]))
    assert scheme.name == "avw-by_mean"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperature": -1.0}, "use invert=True"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"temperature": math.nan}, "must be above 0"),
        ({"strength": 1.5}, r"0\.\.1, got 1\.5"),
        ({"strength": -0.1}, r"0\.\.1"),
        ({"momentum": 1.0}, "without 1, got 1"),
        (
            {"signal": "variance"},
            "unknown signal 'variance'; known are decline, dispersion, magnitude",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AVW(**arguments)
