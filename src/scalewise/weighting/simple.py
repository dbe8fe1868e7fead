"""Schemes that do not look at the losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalewise.weighting.moments import Moments
from scalewise.weighting.random import CounterRandom
from scalewise.weighting.scheme import Scheme, register


@register("equal")
class Equal(Scheme):
    """Every level weighs 1: the detector's own loss."""

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Return ones."""
        return torch.ones_like(current.mean)


@register("static")
class Static(Scheme):
    """Given weights from the first step on; only their ratios matter, the mean is made 1.

    Args:
        weights: one per level, finite, at least 0 and not all 0.

    Raises:
        ValueError: the weights are unusable, or their number is not that of the levels.
    """

    given: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        given = torch.as_tensor(weights, dtype=torch.float32)
        if given.dim() != 1 or not bool(
            (given.isfinite() & (given >= 0)).all() and given.sum() > 0
        ):
            raise ValueError(
                f"static weights must be finite, at least 0 and not all 0, got {list(weights)}"
            )
        self.register_buffer("given", given / given.mean())

    def build(self, num_levels: int, seed: int) -> None:
        """Check the number of weights."""
        if len(self.given) != num_levels:
            raise ValueError(
                f"{len(self.given)} static weights for {num_levels} levels; give one per level"
            )

    def initial(self) -> Tensor:
        """The given weights."""
        return self.given

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Return the given weights."""
        return self.given


@register("random")
class RandomWeights(Scheme):
    """Softmax of standard normal draws, new in every interval (Lin et al., 2021: RLW).

    With `interval=1` this is the published rule, which draws on every step.
    """

    def build(self, num_levels: int, seed: int) -> None:
        """Create the generator."""
        self.random = CounterRandom(seed)

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Draw weights."""
        return self.num_levels * self.random.normal(self.num_levels).softmax(0)
