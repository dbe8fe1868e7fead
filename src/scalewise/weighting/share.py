"""Weights from how rare a group of positives is, or from how high its loss is."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.weighting.moments import FEWEST, Moments
from scalewise.weighting.scheme import Scheme, proportional_weights, register


class _OverPositives(Scheme):
    """A scheme that needs the numbers of positives."""

    def build(self, num_groups: int, seed: int) -> None:
        """Refuse whole levels, whose positives are not counted."""
        if self.by == "level":
            raise ValueError(
                f"{self.name} weighs positives, and the groups are whole levels; group them by "
                "level-positives, size or class"
            )


@register("share")
class Share(_OverPositives):
    """`w = (1 / (n share))^power`: weights from each group's share of the positives.

    A simple rule to compare others with. With power 1 all groups count the same in total, with
    power 0 all weights are 1.

    Args:
        power: 0 to 1.

    Raises:
        ValueError: the power is out of range.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["cat", "dog"], sw.Share(power=0.25), by="class", interval=1)
        >>> total = balancer(torch.ones(3, requires_grad=True), torch.tensor([90.0, 10.0]))
        >>> balancer.weights
        tensor([1.0000, 1.6139])
    """

    def __init__(self, power: float = 0.5) -> None:
        super().__init__()
        if not 0 <= power <= 1:
            raise ValueError(f"power must lie in 0..1, got {power}")
        self.power = power

    @property
    def name(self) -> str:
        """Either "share" or such as "share-0.25"."""
        return "share" if self.power == 0.5 else f"share-{self.power:g}"

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Weigh by the pooled shares."""
        positives = self.view(current).positives
        assert positives is not None
        live = positives > 0
        rare = positives.clamp(min=FEWEST) ** -self.power
        return proportional_weights(rare, live)


@register("effective")
class EffectiveNumber(_OverPositives):
    """Class-balanced weights by the effective number of objects (Cui et al., CVPR 2019).

    `w` in proportion to `(1 - beta) / (1 - beta^k)`, k the objects of a group in the training set,
    which the balancer has to be told.

    Args:
        beta: 0 to below 1; with 0 all weights are equal, near 1 they are as `1 / k`. The paper
            uses 0.9 to 0.9999.

    Raises:
        ValueError: beta is out of range, or the balancer does not know the objects.

    Examples:
        >>> import scalewise as sw
        >>> sw.LossBalancer(["cat", "dog"], "effective", by="class", objects=[5000, 100]).weights
        tensor([0.1749, 1.8251])
    """

    found: Tensor

    def __init__(self, beta: float = 0.999) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie in 0..1 without 1, got {beta}")
        self.beta = beta

    def build(self, num_groups: int, seed: int) -> None:
        """Work the weights out."""
        super().build(num_groups, seed)
        if self.objects is None:
            raise ValueError(
                "effective needs to know how many objects each group has in the training set: "
                "LossBalancer(..., objects=[...])"
            )
        count = torch.tensor(self.objects, dtype=torch.float64)
        live = count > 0
        weights = (1 - self.beta) / (1 - self.beta ** count.clamp(min=1))
        self.register_buffer("found", proportional_weights(weights.float(), live))

    def initial(self) -> Tensor:
        """The same weights from the start."""
        return self.found

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Return them."""
        return self.found


@register("loss")
class LossProportional(_OverPositives):
    """Weights proportional to a power of each group's mean loss per positive.

    Args:
        power: above 0, groups with a high loss get more weight; below 0, those with a low loss.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["cat", "dog"], "loss", by="class", interval=1)
        >>> losses = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
        >>> total = balancer(losses, torch.tensor([50.0, 50.0]))  # a dog's loss is twice a cat's
        >>> balancer.weights
        tensor([1.0000, 1.3333])
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    @property
    def name(self) -> str:
        """Either "loss" or such as "loss-2"."""
        return "loss" if self.power == 1 else f"loss-{self.power:g}"

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Weigh by the pooled means."""
        mean = self.view(current).mean
        live = mean > 0
        return proportional_weights(torch.where(live, mean, 1.0) ** self.power, live)
