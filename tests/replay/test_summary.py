"""The numbers of a replay's summary, for losses whose result is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from scalewise.lab.replay.feed import replay, replay_shuffled
from scalewise.lab.replay.replay_summary import loss_share, motion, summarise
from scalewise.lab.replay.settings import Setting


def test_motion_by_hand() -> None:
    moved = motion(np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=np.float32))
    assert moved.jump == pytest.approx(0.5)
    assert moved.spread == pytest.approx(0.25)
    assert moved.persistence == pytest.approx(-0.75)  # three products of -1/4 over four squares


def test_persistence_nears_the_correlation_of_neighbours() -> None:
    noise = np.random.default_rng(0).normal(size=4000)
    series = np.zeros(4000)
    for t in range(1, 4000):
        series[t] = 0.8 * series[t - 1] + noise[t]
    found = motion(series[:, None]).persistence
    assert found == pytest.approx(scipy.stats.pearsonr(series[1:], series[:-1]).statistic, abs=0.01)


def test_weights_that_rest_have_no_persistence() -> None:
    rest = motion(np.ones((5, 3), dtype=np.float32))
    assert (rest.jump, rest.spread) == (0.0, 0.0)
    assert np.isnan(rest.persistence)
    assert np.isnan(motion(np.ones((1, 3))).jump)


def test_loss_share() -> None:
    losses = np.array([[1.0, 3.0], [1.0, np.nan], [2.0, 1.0]])
    np.testing.assert_allclose(loss_share(losses), [0.5, 0.5])
    weights = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 4.0]])
    np.testing.assert_allclose(loss_share(losses, weights), [2 / 9, 7 / 9])
    assert np.isnan(loss_share(np.zeros((2, 2)))).all()


def test_shares_and_extent_of_static_weights() -> None:
    replayed = replay(torch.ones(10, 4), Setting("static:weights=1+1+1+9", interval=5))
    summary = summarise(np.ones((10, 4)), replayed, ())
    np.testing.assert_allclose(summary.share, [1 / 12, 1 / 12, 1 / 12, 9 / 12], rtol=1e-6)
    assert summary.far == 1.0  # 1/3 and 3
    assert summary.actions == {}
    assert summary.shuffled == ()


def test_actions_are_counted() -> None:
    replayed = replay(torch.rand(60, 2), Setting("rlo:actions=equal+random", interval=2))
    summary = summarise(np.ones((60, 2)), replayed, ())
    assert set(summary.actions) == {"equal", "random"}
    assert sum(summary.actions.values()) == 30


def test_signal_stands_out_from_the_shuffled_and_noise_does_not() -> None:
    """A level whose variance rises and falls, and one with constant variance."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, 2, generator=generator)
    phase = torch.linspace(0, 6 * torch.pi, 2000)
    swell = torch.stack((0.3 * torch.exp(phase.sin()), torch.full_like(phase, 0.3)), 1)
    setting = Setting("avw:signal=dispersion:momentum=0", interval=50)
    for losses, stands_out in ((5 + swell * noise, True), (5 + 0.3 * noise, False)):
        shuffled = replay_shuffled(losses, setting, 9)
        summary = summarise(losses.numpy(), replay(losses, setting), shuffled)
        above = all(summary.motion.spread > 1.5 * other.spread for other in summary.shuffled)
        assert above == stands_out
