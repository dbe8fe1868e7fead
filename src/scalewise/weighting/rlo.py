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
    give_groups,
    register,
)
from scalewise.weighting.share import LossProportional, Share
from scalewise.weighting.simple import Equal
from scalewise.weighting.words import as_scheme

_TINY = torch.finfo(torch.float32).tiny


def progress(current: Moments, previous: Moments) -> Tensor:
    """How far the unweighted loss fell over an interval, float32 scalar.

    Of whole levels `ln M(t-1) - ln M(t)`, M the sum over the levels with values in both intervals.
    Of groups of positives the mean of `ln m_g(t-1) - ln m_g(t)` over such groups: each counts
    alike, as each class does in AP. Not finite when there is no such group.
    """
    common = (current.count > 0) & (previous.count > 0)
    if current.pooled is None:
        before = torch.where(common, previous.mean, 0.0).sum()
        return before.log() - torch.where(common, current.mean, 0.0).sum().log()
    common = common & (current.mean > 0) & (previous.mean > 0)
    fall = (
        torch.where(common, previous.mean, 1.0).log() - torch.where(common, current.mean, 1.0).log()
    )
    return fall.sum() / common.sum()


@register("rlo")
class RLO(Scheme):
    """Draws a scheme for each interval, from a policy that learns which ones help.

    The idea to draw the weighting scheme is that of Luo et al. (arXiv 2108.04014); the rule is
    this project's own, a gradient bandit (REINFORCE with a baseline; Williams, 1992; Sutton
    and Barto, section 2.8):

        A   = clip((r - b) / d, -clip, clip)        b, d: running mean of r and of |r - b|
        h_a = h_a + learning_rate A ([a = drawn] - pi_a)
        pi  = (1 - explore) softmax(h) + explore / K

    The reward r is the relative fall of the *unweighted* loss ("progress"), or the rise of a number
    that the training loop gives after each validation ("validation", see `LossBalancer.reward`);
    an action then stays until the next number. The advantage A is 0 for the first two rewards: the
    first sets `b`, the second `d`. A reward that is undefined changes no preference; the next
    action is drawn all the same.

    Args:
        actions: K >= 1 schemes, names or functions. Default for whole levels: equal weights, AVW by
            decline, by inverted decline and by dispersion; for positives: equal, Share with power
            0.25, 0.5 and 1, AVW, and in proportion to the loss.
        learning_rate: at least 0; 0 keeps the policy uniform. Default: 0.1 for whole levels, 0.5
            for positives.
        explore: 0 to 1, the share of uniform drawing.
        clip: above 0, the largest advantage.
        memory: 0 to below 1, of the running reward statistics. Default: 0.9 for whole levels, 0.8
            for positives.
        reward: "progress" or "validation".

    Attributes:
        action: int64 scalar, the action in force; -1 in the first interval, where all weights are
            1.
        actions: the schemes.
        action_names: their labels, made unique.

    Raises:
        ValueError: an argument is out of range, an action has parameters of its own, or serves
            twice.

    Examples:
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["cat", "dog"], sw.RLO(explore=0.2), by="class")
        >>> balancer.scheme.action_names
        ('equal', 'share-0.25', 'share', 'share-1', 'avw-magnitude', 'loss')
        >>> int(balancer.scheme.action)  # none is drawn before the first interval has ended
        -1
    """

    action: Tensor
    preferences: Tensor
    baseline: Tensor
    deviation: Tensor
    rewards: Tensor
    told: Tensor
    numbers: Tensor
    heard: Tensor

    def __init__(
        self,
        actions: Sequence[SchemeLike] | None = None,
        learning_rate: float | None = None,
        explore: float = 0.1,
        clip: float = 2.0,
        memory: float | None = None,
        reward: str = "progress",
    ) -> None:
        super().__init__()
        if actions is not None and len(actions) == 0:
            raise ValueError("RLO needs at least one action")
        if learning_rate is not None and not learning_rate >= 0:
            raise ValueError(f"learning_rate must be at least 0, got {learning_rate}")
        if not 0 <= explore <= 1:
            raise ValueError(f"explore must lie in 0..1, got {explore}")
        if not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip}; learning_rate=0 stops learning")
        if memory is not None and not 0 <= memory < 1:
            raise ValueError(f"memory must lie in 0..1 without 1, got {memory}")
        if reward not in ("progress", "validation"):
            raise ValueError(f"reward must be 'progress' or 'validation', got {reward!r}")
        self._default = actions is None
        self._take(_level_actions() if actions is None else actions)
        self.learning_rate = learning_rate
        self.explore = explore
        self.clip = clip
        self.memory = memory
        self.reward = reward

    def _take(self, actions: Sequence[SchemeLike]) -> None:
        schemes = [as_scheme(action) for action in actions]
        for scheme in schemes:
            if isinstance(scheme, LearnedScheme):
                raise ValueError(
                    f"{type(scheme).__name__} learns its weights by back-propagation, "
                    "so it cannot be drawn as an action; use it as the balancer's scheme"
                )
        self.actions = nn.ModuleList(schemes)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Labels of the actions, made unique."""
        return _unique([scheme.name for scheme in self._schemes()])

    @property
    def name(self) -> str:
        """Such as "rlo(equal, avw-decline)"."""
        return f"rlo({', '.join(self.action_names)})"

    @property
    def probabilities(self) -> Tensor:
        """The policy from which the next action is drawn, float32 [K]."""
        share = self.explore / len(self.actions)
        return (1 - self.explore) * self.preferences.softmax(0) + share

    def build(self, num_groups: int, seed: int) -> None:
        """Create the policy's state and that of every action."""
        whole = self.by == "level"
        if self._default and not whole:
            self._take(_positive_actions())
        if self.learning_rate is None:
            self.learning_rate = 0.1 if whole else 0.5
        if self.memory is None:
            self.memory = 0.9 if whole else 0.8
        self.register_buffer("told", torch.zeros(2))  # the last number, and the one before
        self.register_buffer("numbers", torch.tensor(0))  # how many there were
        self.register_buffer("heard", torch.tensor(0))  # 0 or 1
        self.register_buffer("action", torch.tensor(-1))
        self.register_buffer("preferences", torch.zeros(len(self.actions)))
        self.register_buffer("baseline", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(0.0))
        self.register_buffer("rewards", torch.tensor(0))
        self.random = CounterRandom(derive_seed(seed, 0))
        for index, scheme in enumerate(self._schemes()):
            give_groups(scheme, self.names, self.by, derive_seed(seed, index + 1), self.objects)

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Reward the last action, draw the next and return its weights; see the class."""
        if self.reward == "progress":
            self._learn(progress(current, previous))
        else:
            known = self.heard.bool() & (self.numbers > 1)
            self._learn(torch.where(known, self.told[0] - self.told[1], torch.nan))
        cumulative = self.probabilities.cumsum(0)  # [K]
        drawn = (cumulative <= self.random.uniform(1)).sum().clamp(max=len(self.actions) - 1)
        if self.reward == "validation":
            drawn = torch.where(self.heard.bool() | (self.action < 0), drawn, self.action)
            self.heard.fill_(0)
        self.action.copy_(drawn)
        # Every action sees every interval, so that its state is current whenever it is drawn.
        proposals = torch.stack([s.propose(current, previous) for s in self._schemes()])  # [K, n]
        return proposals.index_select(0, self.action.view(1)).squeeze(0)

    def hear(self, value: Tensor) -> None:
        """Take a number that the training is to raise; the next interval's end learns from it."""
        self.told.copy_(torch.stack((value.to(self.told), self.told[0])))
        self.numbers += 1
        self.heard.fill_(1)

    def _learn(self, reward: Tensor) -> None:
        assert self.learning_rate is not None
        assert self.memory is not None
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


def _level_actions() -> list[Scheme]:
    return [Equal(), AVW("decline"), AVW("decline", invert=True), AVW("dispersion")]


def _positive_actions() -> list[Scheme]:
    return [Equal(), Share(0.25), Share(0.5), Share(1.0), AVW(), LossProportional()]


def _unique(names: list[str]) -> tuple[str, ...]:
    """Number the second and later of equal names."""
    return tuple(
        name if names[:index].count(name) == 0 else f"{name}-{names[:index].count(name) + 1}"
        for index, name in enumerate(names)
    )
