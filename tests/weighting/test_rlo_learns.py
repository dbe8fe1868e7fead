"""If one action is truly better, RLO's policy finds it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from scalewise.weighting import RLO, Equal, LossBalancer, Share

DECISIONS, SEEDS = 40, 10
NOISE = 0.02  # relative standard deviation of an interval's loss
MARGIN = 2 * math.sqrt(2) * NOISE  # gain of the best action: two deviations of the reward
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def trend(decision: int) -> float:
    """Fall of the log loss in an interval, as in real runs: from 0.09 to 0.003."""
    return 0.003 + 0.087 * math.exp(-decision / 12)


def train(
    seed: int, best: int, margin: float, reward: str, told: Callable[[LossBalancer, float], None]
) -> tuple[float, float]:
    """Train with a loss that falls faster under one action.

    Returns:
        The final probability of the best action, and the share of intervals that used it.
    """
    policy = RLO([Equal(), *(Share(power) for power in POWERS[1:])], reward=reward)
    balancer = LossBalancer(3, policy, interval=1, by="class", seed=seed)
    draw = torch.Generator().manual_seed(seed)
    positives = torch.tensor([90.0, 9.0, 1.0])
    level, had = 0.0, 0
    for decision in range(DECISIONS + 2):
        action = int(policy.action)
        level -= trend(decision) + margin * (action == best)
        had += action == best
        seen = level + NOISE * float(torch.randn((), generator=draw))
        told(balancer, -seen)
        balancer(math.exp(seen) * positives / positives.sum(), positives)
    return float(policy.probabilities[best]), had / DECISIONS


def nothing(balancer: LossBalancer, value: float) -> None:
    """Tell the balancer nothing but the losses."""


def as_validation(balancer: LossBalancer, value: float) -> None:
    """Give the balancer a validation figure that rises as the loss falls."""
    balancer.reward(value)


@pytest.mark.parametrize(("reward", "told"), [("progress", nothing), ("validation", as_validation)])
def test_the_better_action_is_found_in_nine_of_ten_seeds(
    reward: str, told: Callable[[LossBalancer, float], None]
) -> None:
    runs = [train(seed, seed % len(POWERS), MARGIN, reward, told) for seed in range(SEEDS)]
    assert sum(final > 0.6 for final, _ in runs) >= 9, runs
    assert sum(had for _, had in runs) / SEEDS > 0.5


def test_without_a_better_action_none_is_favoured_for_all_seeds() -> None:
    finals = torch.tensor([train(seed, 0, 0.0, "progress", nothing)[0] for seed in range(30)])
    assert 0.08 < float(finals.mean()) < 0.4  # near 1/5, with noise


def test_a_number_is_heard_once_and_actions_stay_until_the_next() -> None:
    policy = RLO([Equal(), Share(0.5), Share(1.0)], reward="validation", explore=1.0)
    balancer = LossBalancer(2, policy, interval=1, by="size", seed=3)
    positives = torch.tensor([5.0, 1.0])
    actions = []
    for step in range(60):
        if step % 10 == 9:
            balancer.reward(step / 100)
        balancer(torch.tensor([0.5, 0.5]), positives)
        actions.append(int(policy.action))
    changes = [step for step in range(1, 60) if actions[step] != actions[step - 1]]
    assert changes
    assert all(step % 10 == 9 for step in changes)
    assert int(policy.rewards) == 5  # six numbers, five differences


def test_who_learns_from_no_number_refuses_it() -> None:
    for scheme in ("rlo", "avw", "equal"):
        with pytest.raises(ValueError, match="rlo:reward=validation"):
            LossBalancer(3, scheme, by="class").reward(0.3)
    with pytest.raises(ValueError, match="'progress' or 'validation'"):
        RLO(reward="ap")
