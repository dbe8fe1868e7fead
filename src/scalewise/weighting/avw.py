"""Adaptive variance weighting: weigh levels by how the variance of their loss behaves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalewise.weighting.moments import Moments, is_finite
from scalewise.weighting.scheme import Scheme, register, softmax_weights


def decline(current: Moments, previous: Moments) -> Tensor:
    """`ln v(t-1) - ln v(t)`, float32 [n]: how fast a level's variance falls."""
    return previous.variance.log() - current.variance.log()


def dispersion(current: Moments, previous: Moments) -> Tensor:
    """`ln(sqrt(v) / m)`, float32 [n]: relative unrest of a level."""
    return (current.variance.sqrt() / current.mean).log()


def magnitude(current: Moments, previous: Moments) -> Tensor:
    """`ln v`, float32 [n]: absolute unrest of a level."""
    return current.variance.log()


Signal = Callable[[Moments, Moments], Tensor]
SIGNALS: dict[str, Signal] = {
    "decline": decline,
    "dispersion": dispersion,
    "magnitude": magnitude,
}


@register("avw")
class AVW(Scheme):
    """Softmax of a smoothed variance signal, blended with equal weights.

    The idea is the adaptive variance weighting of Luo et al. (arXiv 2108.04014); the rule is this
    project's own: `z = momentum z + (1 - momentum) s`, `w = 1 + strength (n softmax(z /
    temperature) - 1)`. A level whose signal is undefined (too few values, no variance) keeps its
    `z`; a level that was never scored weighs exactly 1 and stays out of the softmax of the others.
    So does a level while its share of the loss is below `min_share`: it cannot change the training,
    but the logarithm of its variance would take the weight from those that can.

    Args:
        signal: "decline", "dispersion", "magnitude", or a function (current, previous) -> score
            float32 [n], non-finite where a level has none. Higher score, higher weight.
        temperature: above 0; the lower, the more one level takes. Unit of the score (nats).
        strength: 0 to 1; every weight is at least `1 - strength`.
        momentum: 0 to below 1, per interval.
        invert: flip the sign of the score, to help the level that lags.
        min_share: 0 to below 1, of the total loss.
        per_positive: look at each level's loss over its share of the positives, not at the loss.

    Raises:
        ValueError: an argument is out of range, or the signal is unknown.
    """

    z: Tensor
    scored: Tensor

    def __init__(
        self,
        signal: str | Signal = "decline",
        temperature: float = 1.0,
        strength: float = 0.5,
        momentum: float = 0.9,
        invert: bool = False,
        min_share: float = 0.0,
        per_positive: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(signal, str) and signal not in SIGNALS:
            raise ValueError(f"unknown signal {signal!r}; known are {', '.join(SIGNALS)}")
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; "
                "to favour low scores use invert=True instead of a negative temperature"
            )
        if not 0 <= strength <= 1:
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
        self.per_positive = per_positive

    @property
    def name(self) -> str:
        """Such as "avw-decline" or "avw-decline-invert-per-positive"."""
        signal = getattr(self.signal, "__name__", type(self.signal).__name__)
        invert, share = "-invert" * self.invert, "-per-positive" * self.per_positive
        return f"avw-{signal}{invert}{share}"

    def build(self, num_levels: int, seed: int) -> None:
        """Create the smoothed scores."""
        self.register_buffer("z", torch.zeros(num_levels))
        self.register_buffer("scored", torch.zeros(num_levels, dtype=torch.bool))

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Score the interval, smooth, and share out the weight; see the class."""
        score = self.signal(self.view(current), self.view(previous))
        defined = is_finite(score)
        if self.invert:
            score = -score
        smooth = torch.where(self.scored, self.z.lerp(score, 1 - self.momentum), score)
        torch.where(defined, smooth, self.z, out=self.z)
        self.scored.logical_or_(defined)
        live = self.scored & (current.mean >= self.min_share * current.mean.sum())
        return 1 + self.strength * (softmax_weights(self.z / self.temperature, live) - 1)
