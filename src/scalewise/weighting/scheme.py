"""What a weighting scheme is, how one is found by name, and what schemes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from scalewise.weighting.moments import Moments

_BY_NAME: dict[str, type[Scheme]] = {}


class Scheme(nn.Module, ABC):
    """A rule that turns the moments of the last intervals into weights for the next one.

    Subclasses implement `propose`, and `build` when they keep state. State lives in buffers,
    changed in place, so that it is saved, moved and copied with the balancer. Nothing in `propose`
    may read a value back to the host (`.item()`, `if tensor`, indexing with a boolean or 0-d
    tensor).

    A scheme object can be used by one balancer only.

    Attributes:
        num_groups: number of groups n; 0 until a balancer has it.
        names: of the groups.
        by: what they are groups by: "level" for whole levels, else groups of positives.
        objects: number of objects of each group in the training set, where the balancer knows it.
        fixed: whether its weights are used as they are, without scaling.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> class Flat(sw.Scheme):
        ...     def propose(self, current, previous):
        ...         return 1 / current.mean.clamp(min=1e-6)
        >>> balancer = sw.LossBalancer(2, Flat(), interval=1, normalize="mean")
        >>> total = balancer(torch.tensor([1.0, 3.0], requires_grad=True))
        >>> balancer.weights
        tensor([1.5000, 0.5000])
    """

    num_groups: int = 0
    names: tuple[str, ...] = ()
    by: str = "level"
    objects: tuple[float, ...] | None = None
    fixed: bool = False

    @property
    def name(self) -> str:
        """Short label, used in logs and to check that a saved state belongs to this scheme."""
        return _registered_name(type(self)) or type(self).__name__.lower()

    def build(self, num_groups: int, seed: int) -> None:
        """Create the state; called once, by the balancer.

        Args:
            num_groups: number of groups n.
            seed: an integer that no other scheme of this balancer was given.
        """

    def initial(self) -> Tensor:
        """Weights float32 [n] before any interval has ended."""
        return torch.ones(self.num_groups)

    def view(self, moments: Moments) -> Moments:
        """The moments to judge by: those of the interval, or the pooled ones of positives."""
        return moments.pooled or moments

    @abstractmethod
    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Weights for the next interval.

        Args:
            current: moments of the interval that just ended.
            previous: moments of the one before; its counts are 0 when there was none.

        Returns:
            float32 [n] with mean 1 (the balancer normalises anyway).
        """


class LearnedScheme(Scheme):
    """A scheme with parameters of its own, trained by the loss it returns.

    `propose` then only reports the weights in force, for `LossBalancer.weights`.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.weighting import LearnedScheme
        >>> class Scaled(LearnedScheme):
        ...     def build(self, num_groups, seed):
        ...         self.scale = torch.nn.Parameter(torch.zeros(num_groups))
        ...     def weigh(self, losses):
        ...         return (self.scale.exp() * losses - self.scale).sum()
        ...     def propose(self, current, previous):
        ...         return self.scale.exp()
        >>> balancer = sw.LossBalancer(2, Scaled())
        >>> balancer(torch.tensor([1.0, 3.0])).item()
        4.0
    """

    @abstractmethod
    def weigh(self, losses: Tensor) -> Tensor:
        """The total loss, differentiable with respect to the losses and the parameters.

        Args:
            losses: float32 or float64 [n].

        Returns:
            Scalar of the same dtype.
        """


class FunctionScheme(Scheme):
    """A plain function `(current, previous) -> weights` as a scheme without state."""

    def __init__(self, function: Callable[[Moments, Moments], Tensor]) -> None:
        super().__init__()
        self.function = function

    @property
    def name(self) -> str:
        """The function's own name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def propose(self, current: Moments, previous: Moments) -> Tensor:
        """Call the function."""
        return self.function(current, previous)


SchemeLike = str | Scheme | Callable[[Moments, Moments], Tensor]
_S = TypeVar("_S", bound=type[Scheme])


def register(name: str) -> Callable[[_S], _S]:
    """Class decorator that makes a scheme available by name.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.weighting import register
        >>> @register("first")
        ... class First(sw.Scheme):
        ...     def propose(self, current, previous):
        ...         return torch.eye(self.num_groups)[0]
        >>> sw.LossBalancer(2, "first").scheme.name
        'first'
    """

    def add(cls: _S) -> _S:
        _BY_NAME[name] = cls
        return cls

    return add


def _registered_name(cls: type[Scheme]) -> str | None:
    return next((name for name, known in _BY_NAME.items() if known is cls), None)


def scheme_names() -> tuple[str, ...]:
    """The names that schemes are registered under, sorted.

    Examples:
        >>> from scalewise.weighting import scheme_names
        >>> [name for name in scheme_names() if name in ("avw", "equal", "share")]
        ['avw', 'equal', 'share']
    """
    return tuple(sorted(_BY_NAME))


def scheme_class(name: str) -> type[Scheme]:
    """The class registered under one of `scheme_names()`.

    Examples:
        >>> from scalewise.weighting import scheme_class
        >>> scheme_class("share")(power=0.25).name
        'share-0.25'
    """
    return _BY_NAME[name]


def give_groups(
    scheme: Scheme,
    names: tuple[str, ...],
    by: str,
    seed: int,
    objects: tuple[float, ...] | None = None,
) -> None:
    """Give a scheme its groups and its state.

    Raises:
        ValueError: it has them already; two owners would overwrite each other's state.
    """
    if scheme.num_groups:
        raise ValueError(
            f"this {type(scheme).__name__} already serves a balancer or an action; "
            "make a new one for each"
        )
    scheme.num_groups, scheme.names, scheme.by, scheme.objects = len(names), names, by, objects
    scheme.build(len(names), seed)


def softmax_weights(scores: Tensor, live: Tensor) -> Tensor:
    """Softmax over the live groups, times their number; exactly 1 for the others.

    Args:
        scores: float32 [n]; ignored, and free to be non-finite, where not live.
        live: bool [n].

    Returns:
        float32 [n] with mean 1.
    """
    # Not -inf: the softmax of nothing but that is NaN.
    masked = torch.where(live, scores, torch.finfo(scores.dtype).min)
    return torch.where(live, live.sum() * masked.softmax(0), 1.0)


def proportional_weights(scores: Tensor, live: Tensor) -> Tensor:
    """Weights in proportion to non-negative scores among the live groups; 1 for the others.

    Args:
        scores: float32 [n]; ignored, and free to be non-finite, where not live.
        live: bool [n].

    Returns:
        float32 [n] with mean 1; all ones when every live score is 0.
    """
    masked = torch.where(live, scores, 0.0)
    total = masked.sum()
    shared = masked / torch.where(total > 0, total, 1.0) * live.sum()
    return torch.where(live & (total > 0), shared, 1.0)
