"""A control for AVW: the same weights on the wrong levels."""

from __future__ import annotations

from torch import Tensor

from scalewise.weighting.avw import AVW
from scalewise.weighting.moments import Moments
from scalewise.weighting.random import CounterRandom
from scalewise.weighting.scheme import register


@register("permuted")
class Permuted(AVW):
    """AVW's weights, handed to the levels in one random order that the seed draws.

    They move as much and as steadily as AVW's, but follow another level's signal. A gain of AVW
    that this control shows as well is not due to the signal.

    Takes the arguments of `AVW`. For one level, and for 1 in n! seeds, it is AVW itself.

    Attributes:
        order: int64 [n], the level whose weight each level is given.
    """

    order: Tensor

    def build(self, num_levels: int, seed: int) -> None:
        """Draw the order."""
        super().build(num_levels, seed)
        self.register_buffer("order", CounterRandom(seed).uniform(num_levels).argsort())

    @property
    def name(self) -> str:
        """Such as "permuted-decline"."""
        return super().name.replace("avw", "permuted", 1)

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """AVW's proposal in the drawn order."""
        return super().propose(current, previous).index_select(0, self.order)
