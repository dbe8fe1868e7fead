"""Adaptive variance weighting: weights from the variance of each group's loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalewise.weighting.moments import Moments, is_finite
from scalewise.weighting.scheme import Scheme, register, softmax_weights


def decline(current: Moments, previous: Moments) -> Tensor:
    """`ln v(t-1) - ln v(t)`, float32 [n]: how fast a group's variance falls."""
    return previous.variance.log() - current.variance.log()


def dispersion(current: Moments, previous: Moments) -> Tensor:
    """`ln(sqrt(v) / m)`, float32 [n]: how much a group's loss varies, in proportion to its mean."""
    return (current.variance.sqrt() / current.mean).log()


def magnitude(current: Moments, previous: Moments) -> Tensor:
    """`ln v`, float32 [n]: how much a group's loss varies."""
    return current.variance.log()


Signal = Callable[[Moments, Moments], Tensor]
SIGNALS: dict[str, Signal] = {
    "decline": decline,
    "dispersion": dispersion,
    "magnitude": magnitude,
}


@register("avw")
class AVW(Scheme):
    """Weights from the variance of each group's loss: a softmax, mixed with equal weights.

    The idea is the adaptive variance weighting of Luo et al. (arXiv 2108.04014); the rule is this
    project's own: `w = 1 + strength (n softmax(z / temperature) - 1)`. A group that never had a
    score has weight 1 exactly, and is left out of the softmax.

    For groups of positives `z` is the score of the pooled moments, which exist even if a group was
    absent for some intervals. For whole levels the scores s of the intervals are smoothed,
    `z = momentum z + (1 - momentum) s`; a level without a score keeps its `z`. While a level has
    less than `min_share` of the loss, its weight is 1.

    Args:
        signal: "decline", "dispersion", "magnitude", or a function (current, previous) ->
            score float32 [n], not finite where a group has none. Higher score, higher weight.
            Default: "magnitude" for positives, "decline" for whole levels. With the default
            temperature, "magnitude" gives weights proportional to the standard deviation of the
            loss per positive from step to step. It is high if a group is rare (its number of
            objects then varies a lot), if its objects have a high loss, and if their losses differ.
        temperature: above 0; the lower, the more one group takes. Unit of the score (nats).
            Default: 1 for whole levels, 2 for positives.
        strength: 0 to 1; every weight is at least `1 - strength`. Default: 0.5 for whole levels, 1
            for positives.
        momentum: 0 to below 1, per interval; for whole levels.
        invert: change the sign of the score, so that the lowest gets the highest weight.
        min_share: 0 to below 1, of the total loss; for whole levels.

    Raises:
        ValueError: an argument is out of range, or the signal is unknown.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["cat", "dog"], sw.AVW(), by="class", interval=4)
        >>> for dogs in (0.0, 2.0, 0.0, 2.0):  # cats in every step, dogs in every other
        ...     losses = torch.tensor([8.0 + dogs, dogs, 5.0], requires_grad=True)
        ...     total = balancer(losses, torch.tensor([8.0, dogs]))
        >>> balancer.weights
        tensor([1.0000, 2.8824])
    """

    z: Tensor
    scored: Tensor

    def __init__(
        self,
        signal: str | Signal | None = None,
        temperature: float | None = None,
        strength: float | None = None,
        momentum: float = 0.9,
        invert: bool = False,
        min_share: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(signal, str) and signal not in SIGNALS:
            raise ValueError(f"unknown signal {signal!r}; known are {', '.join(SIGNALS)}")
        if temperature is not None and not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; "
                "to favour low scores use invert=True instead of a negative temperature"
            )
        if strength is not None and not 0 <= strength <= 1:
            raise ValueError(
                f"strength must lie in 0..1, got {strength}; above 1 weights could turn negative: "
                "lower the temperature for sharper weights"
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 without 1, got {momentum}")
        if not 0 <= min_share < 1:
            raise ValueError(f"min_share must lie in 0..1 without 1, got {min_share}")
        self.signal = SIGNALS[signal] if isinstance(signal, str) else signal
        self.temperature = temperature
        self.strength = strength
        self.momentum = momentum
        self.invert = invert
        self.min_share = min_share

    @property
    def name(self) -> str:
        """Such as "avw-decline" or "avw-decline-invert"."""
        signal = self.signal or (decline if self.by == "level" else magnitude)
        label = getattr(signal, "__name__", type(signal).__name__)
        return f"avw-{label}{'-invert' * self.invert}"

    def build(self, num_groups: int, seed: int) -> None:
        """Create the scores, and take the defaults that suit the groups."""
        whole = self.by == "level"
        self.signal = self.signal or (decline if whole else magnitude)
        self.temperature = self.temperature or (1.0 if whole else 2.0)
        self.strength = (0.5 if whole else 1.0) if self.strength is None else self.strength
        self.register_buffer("z", torch.zeros(num_groups))
        self.register_buffer("scored", torch.zeros(num_groups, dtype=torch.int64))  # 0 or 1

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Score the groups, and compute their weights; see the class."""
        assert self.signal is not None
        assert self.temperature is not None
        assert self.strength is not None
        score = self.signal(self.view(current), self.view(previous))
        defined = is_finite(score)
        if self.invert:
            score = -score
        if current.pooled is None:
            score = torch.where(self.scored.bool(), self.z.lerp(score, 1 - self.momentum), score)
        torch.where(defined, score, self.z, out=self.z)
        self.scored.logical_or_(defined)
        live = self.scored.bool()
        if current.pooled is None:
            live = live & (current.mean >= self.min_share * current.mean.sum())
        return 1 + self.strength * (softmax_weights(self.z / self.temperature, live) - 1)
