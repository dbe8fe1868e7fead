"""Published schemes and controls to compare with, under the same interface."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalewise.weighting.avw import AVW
from scalewise.weighting.moments import ROUNDING, Moments, is_finite
from scalewise.weighting.random import CounterRandom
from scalewise.weighting.scheme import (
    LearnedScheme,
    Scheme,
    proportional_weights,
    register,
    softmax_weights,
)


@register("random")
class RandomWeights(Scheme):
    """Softmax of standard normal draws, new in every interval (Lin et al., 2021: RLW).

    With `interval=1` this is the published rule, which draws on every step.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(3, sw.RandomWeights(), interval=1, normalize="mean")
        >>> total = balancer(torch.ones(3, requires_grad=True))
        >>> round(balancer.weights.mean().item(), 4)
        1.0
    """

    def build(self, num_groups: int, seed: int) -> None:
        """Create the generator."""
        self.random = CounterRandom(seed)

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Draw weights."""
        return self.num_groups * self.random.normal(self.num_groups).softmax(0)


@register("dwa")
class DWA(Scheme):
    """`n softmax(m(t) / m(t-1) / temperature)`: more weight where the loss falls slowly.

    Dynamic weight average of Liu et al. (CVPR 2019), on the mean losses of two intervals (theirs
    are epochs). A group without a mean in both intervals weighs 1.

    Args:
        temperature: above 0; the higher, the more equal. The paper uses 2.

    Raises:
        ValueError: the temperature is not above 0.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(2, sw.DWA(), interval=1, normalize="mean")
        >>> for losses in ([4.0, 4.0], [2.0, 4.0]):  # the first falls, the second does not
        ...     total = balancer(torch.tensor(losses, requires_grad=True))
        >>> balancer.weights
        tensor([0.8756, 1.1244])
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Compare the two intervals."""
        ratio = current.mean / previous.mean
        live = (current.count > 0) & (previous.count > 0) & ratio.isfinite()
        return softmax_weights(ratio / self.temperature, live)


@register("inverse")
class InverseLoss(Scheme):
    """Weights in inverse proportion to each group's running mean loss.

    The idea of YOLOv5's `autobalance`. Nothing bounds the weight of a group whose loss is nearly 0;
    one whose running mean is not positive weighs 1.

    Args:
        momentum: 0 to below 1, of the running mean, per interval.

    Raises:
        ValueError: the momentum is out of range.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(2, sw.InverseLoss(), interval=1, normalize="mean")
        >>> total = balancer(torch.tensor([1.0, 3.0], requires_grad=True))
        >>> balancer.weights
        tensor([1.5000, 0.5000])
    """

    average: Tensor
    seen: Tensor

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in 0..1 without 1, got {momentum}")
        self.momentum = momentum

    def build(self, num_groups: int, seed: int) -> None:
        """Create the running mean."""
        self.register_buffer("average", torch.zeros(num_groups))
        self.register_buffer("seen", torch.zeros(num_groups, dtype=torch.int64))  # 0 or 1

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Update the running mean and invert it."""
        fresh = current.count > 0
        blend = self.momentum * self.average + (1 - self.momentum) * current.mean
        average = torch.where(self.seen.bool(), blend, current.mean)
        self.average.copy_(torch.where(fresh, average, self.average))
        self.seen.logical_or_(fresh)
        inverse = self.average.reciprocal()
        return proportional_weights(inverse, self.seen.bool() & is_finite(inverse) & (inverse > 0))


@register("cov")
class CoV(Scheme):
    """Weights in proportion to the coefficient of variation of each group's loss ratio.

    CoV-Weighting of Groenendijk et al. (WACV 2021) on interval means; `interval=1` is the published
    per-step rule. The ratio is `m(t)` divided by the mean of all earlier losses (1 at first); its
    mean and deviation are taken over all intervals. A group with fewer than two ratios weighs 1.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(2, sw.CoV(), interval=1, normalize="mean")
        >>> for losses in ([2.0, 4.0], [1.0, 4.0], [3.0, 4.0], [2.0, 5.0]):
        ...     total = balancer(torch.tensor(losses, requires_grad=True))
        >>> balancer.weights
        tensor([1.6524, 0.3476])
    """

    history: Tensor
    ratios: Tensor

    def build(self, num_groups: int, seed: int) -> None:
        """Create the history [2, n] (count, mean loss) and the ratios [3, n] (count, mean, dev)."""
        self.register_buffer("history", torch.zeros(2, num_groups))
        self.register_buffer("ratios", torch.zeros(3, num_groups))

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Extend the history by one interval and compare the ratios' coefficients of variation."""
        seen, loss = self.history.unbind(0)  # [n] each
        count, mean, deviation = self.ratios.clone().unbind(0)
        ratio = torch.where(seen > 0, current.mean / loss, 1.0)
        fresh = (current.count > 0) & is_finite(ratio)
        step = ratio - mean
        new_count = count + 1
        new_mean = mean + step / new_count
        new_deviation = deviation + step * (ratio - new_mean)
        updated = torch.stack((new_count, new_mean, new_deviation))
        self.ratios.copy_(torch.where(fresh, updated, self.ratios))

        total = seen + current.count
        share = current.count / total.clamp(min=1)
        self.history.copy_(torch.stack((total, loss + share * (current.mean - loss))))

        count, mean, deviation = self.ratios.unbind(0)
        variation = (deviation / count.clamp(min=1)).sqrt() / mean
        variation = torch.where(variation > ROUNDING, variation, 0.0)
        return proportional_weights(variation, (count >= 2) & (mean > 0))


@register("uncertainty")
class Uncertainty(LearnedScheme):
    """`sum_i exp(-s_i) l_i + s_i` with one learned log variance `s_i` per group.

    Homoscedastic uncertainty of Kendall et al. (CVPR 2018), times two, so that `s = 0` starts from
    the plain sum. The parameters must be in the optimizer, and under data parallelism inside the
    wrapped module, like any other parameter. The total is not normalised; it can turn negative.

    Attributes:
        log_variance: parameter float32 [n].

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(2, sw.Uncertainty(), interval=1)
        >>> optimizer = torch.optim.SGD(balancer.parameters(), lr=0.1)
        >>> balancer(torch.tensor([3.0, 0.5], requires_grad=True)).backward()
        >>> optimizer.step()  # the larger loss is trusted less
        >>> balancer.scheme.log_variance.detach()
        tensor([ 0.2000, -0.0500])
    """

    log_variance: Tensor

    def build(self, num_groups: int, seed: int) -> None:
        """Create the parameters."""
        self.log_variance = nn.Parameter(torch.zeros(num_groups))

    def weigh(self, losses: Tensor) -> Tensor:
        """Return the total of the class's formula."""
        log_variance = self.log_variance.to(losses.dtype)
        return ((-log_variance).exp() * losses + log_variance).sum()

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Report `exp(-s)`."""
        return (-self.log_variance).exp()


@register("permuted")
class Permuted(AVW):
    """AVW's weights, given to the groups in a random order that depends on the seed.

    They change as AVW's do, but each group has the weight of another one. If this control gains as
    much as AVW, the gain does not come from AVW's signal.

    Takes the arguments of `AVW`. For one group, and for 1 in n! seeds, it is AVW itself.

    Attributes:
        order: int64 [n], the group whose weight each group is given.

    Examples:
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(3, sw.Permuted(), seed=1)
        >>> balancer.scheme.order  # each group gets the weight of this one
        tensor([1, 2, 0])
    """

    order: Tensor

    def build(self, num_groups: int, seed: int) -> None:
        """Draw the order."""
        super().build(num_groups, seed)
        self.register_buffer("order", CounterRandom(seed).uniform(num_groups).argsort())

    @property
    def name(self) -> str:
        """Such as "permuted-decline"."""
        return super().name.replace("avw", "permuted", 1)

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """AVW's proposal in the drawn order."""
        return super().propose(current, previous).index_select(0, self.order)
