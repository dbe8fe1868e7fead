"""Reinforcement learning over weighting schemes: a gradient bandit with one arm per scheme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from scalewise.weighting.avw import AVW
from scalewise.weighting.moments import Moments
from scalewise.weighting.random import CounterRandom, derive_seed
from scalewise.weighting.scheme import (
    LearnedScheme,
    Scheme,
    SchemeLike,
    attach,
    register,
)
from scalewise.weighting.simple import Equal
from scalewise.weighting.words import as_scheme

_TINY = torch.finfo(torch.float32).tiny


def progress(current: Moments, previous: Moments) -> Tensor:
    """`ln M(t-1) - ln M(t)` over the levels with values in both intervals, float32 scalar.

    Not finite when there is no such level or a sum is not positive.
    """
    common = (current.count > 0) & (previous.count > 0)
    before = torch.where(common, previous.mean, 0.0).sum()
    return before.log() - torch.where(common, current.mean, 0.0).sum().log()


@register("rlo")
class RLO(Scheme):
    """Draws the scheme of each interval from a policy that learns which ones reduce the loss.

    The idea of deciding the weighting scheme probabilistically is that of Luo et al. (arXiv
    2108.04014); the rule is a gradient bandit (REINFORCE with a baseline; Williams, 1992; Sutton
    and Barto, section 2.8) whose reward is the relative fall of the *unweighted* loss:

        A   = clip((r - b) / d, -clip, clip)        b, d: running mean of r and of |r - b|
        h_a = h_a + learning_rate A ([a = drawn] - pi_a)
        pi  = (1 - explore) softmax(h) + explore / K

    The advantage is 0 for the first two rewards: the first sets `b`, the second `d`. An interval
    whose reward is undefined changes nothing but draws again.

    Args:
        actions: K >= 1 schemes, names or functions; by default equal weights, AVW by decline, by
            inverted decline and by dispersion.
        learning_rate: at least 0; 0 keeps the policy uniform.
        explore: 0 to 1, the share of uniform drawing.
        clip: above 0, the largest advantage.
        memory: 0 to below 1, of the running reward statistics.

    Attributes:
        action: int64 scalar, the action in force; -1 in the first interval, where all weights are
            1.
        actions: the schemes.
        action_names: their labels, made unique.

    Raises:
        ValueError: an argument is out of range, an action has parameters of its own, or serves
            twice.
    """

    action: Tensor
    preferences: Tensor
    baseline: Tensor
    deviation: Tensor
    rewards: Tensor

    def __init__(
        self,
        actions: Sequence[SchemeLike] | None = None,
        learning_rate: float = 0.1,
        explore: float = 0.1,
        clip: float = 2.0,
        memory: float = 0.9,
    ) -> None:
        super().__init__()
        if actions is None:
            actions = (Equal(), AVW("decline"), AVW("decline", invert=True), AVW("dispersion"))
        if len(actions) == 0:
            raise ValueError("RLO needs at least one action")
        if not learning_rate >= 0:
            raise ValueError(f"learning_rate must be at least 0, got {learning_rate}")
        if not 0 <= explore <= 1:
            raise ValueError(f"explore must lie in 0..1, got {explore}")
        if not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip}; learning_rate=0 stops learning")
        if not 0 <= memory < 1:
            raise ValueError(f"memory must lie in 0..1 without 1, got {memory}")
        schemes = [as_scheme(action) for action in actions]
        for scheme in schemes:
            if isinstance(scheme, LearnedScheme):
                raise ValueError(
                    f"{type(scheme).__name__} learns its weights by back-propagation, "
                    "so it cannot be drawn as an action; use it as the balancer's scheme"
                )
        self.actions = nn.ModuleList(schemes)
        self.per_positive = any(scheme.per_positive for scheme in schemes)
        self.action_names = _unique([scheme.name for scheme in schemes])
        self.learning_rate = learning_rate
        self.explore = explore
        self.clip = clip
        self.memory = memory

    @property
    def name(self) -> str:
        """Such as "rlo(equal, avw-decline)"."""
        return f"rlo({', '.join(self.action_names)})"

    @property
    def probabilities(self) -> Tensor:
        """The policy from which the next action is drawn, float32 [K]."""
        share = self.explore / len(self.actions)
        return (1 - self.explore) * self.preferences.softmax(0) + share

    def build(self, num_levels: int, seed: int) -> None:
        """Create the policy's state and that of every action."""
        self.register_buffer("action", torch.tensor(-1))
        self.register_buffer("preferences", torch.zeros(len(self.actions)))
        self.register_buffer("baseline", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(0.0))
        self.register_buffer("rewards", torch.tensor(0))
        self.random = CounterRandom(derive_seed(seed, 0))
        for index, scheme in enumerate(self._schemes()):
            attach(scheme, num_levels, derive_seed(seed, index + 1))

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Reward the last action, draw the next and return its weights; see the class."""
        self._learn(progress(current, previous))
        cumulative = self.probabilities.cumsum(0)  # [K]
        drawn = (cumulative <= self.random.uniform(1)).sum()
        self.action.copy_(drawn.clamp(max=len(self.actions) - 1))
        # Every action sees every interval, so that its state is current whenever it is drawn.
        proposals = torch.stack([s.propose(current, previous) for s in self._schemes()])  # [K, n]
        return proposals.index_select(0, self.action.view(1)).squeeze(0)

    def _learn(self, reward: Tensor) -> None:
        valid = reward.isfinite() & (self.action >= 0)
        surprise = reward - self.baseline
        scaled = (surprise / (self.deviation + _TINY)).clamp(-self.clip, self.clip)
        advantage = torch.where(valid & (self.rewards >= 2), scaled, 0.0)
        arms = torch.arange(len(self.actions), device=self.action.device)
        chosen = (arms == self.action).to(torch.float32)  # [K]
        self.preferences += self.learning_rate * advantage * (chosen - self.probabilities)
        keep = 1 - self.memory
        baseline = torch.where(self.rewards == 0, reward, self.baseline + keep * surprise)
        spread = surprise.abs()
        smooth = torch.where(
            self.rewards == 1, spread, self.memory * self.deviation + keep * spread
        )
        self.baseline.copy_(torch.where(valid, baseline, self.baseline))
        self.deviation.copy_(torch.where(valid & (self.rewards >= 1), smooth, self.deviation))
        self.rewards += valid

    def _schemes(self) -> list[Scheme]:
        return [cast(Scheme, module) for module in self.actions]


def _unique(names: list[str]) -> tuple[str, ...]:
    """Number the second and later of equal names."""
    return tuple(
        name if names[:index].count(name) == 0 else f"{name}-{names[:index].count(name) + 1}"
        for index, name in enumerate(names)
    )
