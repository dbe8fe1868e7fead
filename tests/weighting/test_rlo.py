from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scalewise.weighting import AVW, RLO, Equal, LossBalancer, Moments, Static


def scripted(means: list[float], scheme: RLO, seed: int = 0) -> list[tuple[int, list[float]]]:
    """Action and policy after each interval; an interval is one step with the given loss."""
    balancer = LossBalancer(1, scheme, interval=1, guard=None, seed=seed)
    seen = []
    for mean in means:
        balancer(torch.tensor([mean]))
        seen.append((int(scheme.action), scheme.probabilities.tolist()))
    return seen


def test_first_interval_has_no_action_and_equal_weights() -> None:
    scheme = RLO()
    balancer = LossBalancer(3, scheme, interval=2)
    balancer(torch.rand(3))
    assert int(scheme.action) == -1
    assert balancer.weights.tolist() == [1.0, 1.0, 1.0]
    balancer(torch.rand(3))
    assert 0 <= int(scheme.action) < 4
    assert scheme.action_names == ("equal", "avw-decline", "avw-decline-invert", "avw-dispersion")


def test_learning_by_hand() -> None:
    scheme = RLO([Equal(), Equal()], learning_rate=0.5, explore=0.0, clip=2.0, memory=0.5)
    # Rewards ln(M(t-1)/M(t)): none, 1, 3, 4 -- the first sets b = 1, the second d = 2 and b = 2.
    means = [math.exp(-x) for x in (0.0, 1.0, 4.0, 8.0)]
    seen = scripted(means, scheme)
    assert seen[0][1] == seen[1][1] == seen[2][1] == [0.5, 0.5]
    # A = (4 - 2) / 2 = 1; h = 0.5 * (1 - 0.5) = 0.25 for the drawn action, -0.25 for the other.
    winner = 1 / (1 + math.exp(-0.5))
    action = seen[2][0]
    assert seen[3][1][action] == pytest.approx(winner, rel=1e-5)
    assert float(scheme.baseline) == pytest.approx(3, rel=1e-5)
    assert float(scheme.deviation) == pytest.approx(2, rel=1e-5)


def single(scheme: RLO) -> LossBalancer:
    return LossBalancer(1, scheme, interval=1, guard=None)


def test_undefined_rewards_change_nothing() -> None:
    scheme = RLO([Equal(), Equal()], learning_rate=0.5)
    balancer = single(scheme)
    for mean in (1.0, 0.5, 0.2, 0.15):
        balancer(torch.tensor([mean]))
    learned = (scheme.preferences, scheme.baseline, scheme.deviation)
    before = [buffer.clone() for buffer in learned]
    for mean in (0.0, math.nan, 0.0, 0.1):
        balancer(torch.tensor([mean]))
    assert float(before[0].abs().sum()) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, learned, strict=True))


def test_a_level_absent_in_one_interval_does_not_fake_progress() -> None:
    scheme = RLO([Equal(), Equal()], memory=0.0)
    balancer = LossBalancer(2, scheme, interval=1, guard=None)
    for row in ([1.0, 1.0], [1.0, 1.0], [1.0, torch.nan], [1.0, 1.0]):
        balancer(torch.tensor(row))
    assert float(scheme.baseline) == 0


def test_draws_follow_the_policy() -> None:
    scheme = RLO([Equal() for _ in range(4)], learning_rate=0.0, explore=0.2)
    single(scheme)
    scheme.preferences.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
    probabilities = scheme.probabilities.tolist()
    steady = Moments(torch.ones(1), torch.ones(1), torch.zeros(1))
    drawn, count = [0] * 4, 1000
    for _ in range(count):
        scheme.propose(steady, steady)
        drawn[int(scheme.action)] += 1
    expected = [count * p for p in probabilities]
    assert sum(probabilities) == pytest.approx(1)
    # 0.999 quantile of chi-square with 3 degrees of freedom
    assert sum((d - e) ** 2 / e for d, e in zip(drawn, expected, strict=True)) < 16.27


def test_without_learning_and_all_exploration_the_drawing_is_uniform() -> None:
    scheme = RLO(learning_rate=0.0, explore=1.0)
    balancer = LossBalancer(2, scheme, interval=1, guard=None, seed=3)
    generator = torch.Generator().manual_seed(0)
    drawn = [0] * 4
    for _ in range(400):
        balancer(torch.rand(2, generator=generator))
        drawn[int(scheme.action)] += 1
    assert scheme.probabilities.tolist() == [0.25] * 4
    assert sum((d - 100) ** 2 / 100 for d in drawn) < 16.27


def test_learns_which_action_helps() -> None:
    """The loss falls only while level 0 weighs more, and RLO finds that action."""
    scheme = RLO([Static([1, 3]), Static([3, 1])], learning_rate=0.3, explore=0.1)
    balancer = LossBalancer(2, scheme, interval=1, guard=None)
    generator = torch.Generator().manual_seed(0)
    level = 0.0
    for _ in range(300):
        gain = 0.1 if float(balancer.weights[0]) > 1 else -0.1
        level -= gain + 0.02 * float(torch.randn((), generator=generator))
        balancer(torch.full((2,), math.exp(level)))
    assert float(scheme.probabilities[1]) > 0.9


def test_the_weights_are_those_of_the_drawn_action() -> None:
    scheme = RLO([Static([1, 3]), Static([3, 1]), lambda current, previous: torch.ones(2)])
    balancer = LossBalancer(2, scheme, interval=1, normalize="mean")
    expected = {0: [0.5, 1.5], 1: [1.5, 0.5], 2: [1.0, 1.0]}
    seen = set()
    for _ in range(40):
        balancer(torch.rand(2))
        seen.add(int(scheme.action))
        assert balancer.weights.tolist() == expected[int(scheme.action)]
    assert seen == {0, 1, 2}


def test_actions_not_drawn_keep_learning() -> None:
    alone, action = AVW("magnitude"), AVW("magnitude")
    first = LossBalancer(2, alone, interval=3)
    second = LossBalancer(2, RLO([Equal(), action]), interval=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        losses = torch.rand(2, generator=generator)
        first(losses)
        second(losses)
    assert torch.equal(alone.z, action.z)
    assert float(alone.z.abs().sum()) > 0


def test_seeds_differ_and_repeat() -> None:
    def draws(seed: int) -> list[int]:
        return [a for a, _ in scripted([1.0] * 20, RLO(), seed)]

    assert draws(0) == draws(0)
    assert len({tuple(draws(seed)) for seed in range(8)}) == 8


def test_names_of_equal_actions_are_told_apart() -> None:
    assert RLO(["avw", AVW(temperature=2.0), "equal"]).action_names == (
        "avw-decline",
        "avw-decline-2",
        "equal",
    )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"actions": []}, "at least one action"),
        ({"actions": ["uncertainty"]}, "cannot be drawn as an action"),
        ({"actions": ["equal", "nothing"]}, "unknown scheme 'nothing'"),
        ({"learning_rate": -0.1}, "at least 0"),
        ({"explore": 1.1}, r"0\.\.1"),
        ({"clip": 0.0}, "above 0"),
        ({"memory": 1.0}, "without 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RLO(**arguments)


def test_one_scheme_cannot_be_two_actions() -> None:
    shared = AVW()
    with pytest.raises(ValueError, match="already serves"):
        LossBalancer(2, RLO([shared, shared]))


def test_progress_looks_at_unweighted_losses() -> None:
    """Rewards do not depend on the weights that are in force."""

    def rewards(action: Any) -> float:
        scheme = RLO([action])
        balancer = LossBalancer(2, scheme, interval=1, guard=None)
        for mean in (1.0, 0.5, 0.1):
            balancer(torch.tensor([mean, 2 * mean]))
        return float(scheme.baseline)

    assert rewards(Static([1, 3])) == rewards(Static([3, 1])) != 0


def test_previous_moments_are_those_of_the_interval_before() -> None:
    seen: list[tuple[list[float], list[float]]] = []

    def spy(current: Moments, previous: Moments) -> Tensor:
        seen.append((current.mean.tolist(), previous.mean.tolist()))
        return torch.ones(1)

    scripted([1.0, 2.0, 3.0], RLO([spy]))
    assert seen == [([1.0], [0.0]), ([2.0], [1.0]), ([3.0], [2.0])]
