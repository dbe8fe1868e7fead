"""Schemes that do not look at the losses: equal, static and given weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scalewise.weighting.moments import Moments
from scalewise.weighting.scheme import Scheme, register


@register("equal")
class Equal(Scheme):
    """Every group weighs 1: the detector's own loss.

    Examples:
        >>> import scalewise as sw
        >>> sw.LossBalancer(["cat", "dog"], sw.Equal(), by="class").weights
        tensor([1., 1.])
    """

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Return ones."""
        return torch.ones_like(current.mean)


@register("static")
class Static(Scheme):
    """Given weights from the first step on; only their ratios matter, the mean is made 1.

    Args:
        weights: one per group, finite, at least 0 and not all 0.

    Raises:
        ValueError: the weights are unusable, or their number is not that of the groups.

    Examples:
        >>> import scalewise as sw
        >>> sw.LossBalancer(["P3", "P4", "P5"], sw.Static([1, 1, 4])).weights
        tensor([0.5000, 0.5000, 2.0000])
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

    def build(self, num_groups: int, seed: int) -> None:
        """Check the number of weights."""
        if len(self.given) != num_groups:
            raise ValueError(
                f"{len(self.given)} static weights for {num_groups} groups; give one per group"
            )

    def initial(self) -> Tensor:
        """The given weights."""
        return self.given

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Return the given weights."""
        return self.given


class Given(Scheme):
    """Weights that are named: `class:platelet=2` doubles the loss of that class's positives.

    They are used as they are; groups that are not named weigh 1.

    Args:
        by: what the groups are by.
        weights: finite and at least 0, by the group's name.

    Raises:
        ValueError: a weight is unusable, or the balancer has no group of that name or other groups.

    Examples:
        >>> import scalewise as sw
        >>> sw.LossBalancer(["red", "platelet"], "class:platelet=2", by="class").weights
        tensor([1., 2.])
        >>> sw.Given("class", {"platelet": 2}).name
        'class:platelet=2'
    """

    fixed = True
    given: Tensor

    def __init__(self, by: str, weights: Mapping[str, float]) -> None:
        super().__init__()
        for name, weight in weights.items():
            if not (isinstance(weight, float | int) and 0 <= weight < math.inf):
                raise ValueError(f"the weight of {name} must be a number from 0 on, got {weight}")
        self.wanted_by = by
        self.wanted = dict(weights)

    @property
    def name(self) -> str:
        """Such as "class:platelet=2"."""
        return ":".join([self.wanted_by, *(f"{n}={w:g}" for n, w in self.wanted.items())])

    def build(self, num_groups: int, seed: int) -> None:
        """Find the groups."""
        if self.by != self.wanted_by:
            raise ValueError(f"{self.name} weighs by {self.wanted_by}, the groups are by {self.by}")
        unknown = [name for name in self.wanted if name not in self.names]
        if unknown:
            raise ValueError(f"no group {', '.join(unknown)}; there are: {', '.join(self.names)}")
        weights = [float(self.wanted.get(name, 1.0)) for name in self.names]
        self.register_buffer("given", torch.tensor(weights))

    def initial(self) -> Tensor:
        """The given weights."""
        return self.given

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Return the given weights."""
        return self.given
