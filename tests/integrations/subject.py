"""What the matrix tests need to know of a framework's model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scalewise.weighting import LossBalancer

Step = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Subject:
    """One model family of one framework, tiny and on the CPU.

    Attributes:
        framework: its name and the version that runs.
        family: of models.
        way: how the weights reach the gradients, "split" or "gradient scaling".
        make: (levels, seed) -> a model in training mode, float32; the same seed, the same weights.
        levels: numbers of levels that it can be made with, the usual one first.
        batch: (objects per image, seed) -> data for `step`; (0, 2) is an empty image and one of two
            objects.
        attach: (model, scheme, by=, interval=, normalize=, accumulate=, seed=) -> the model's
            balancers by set of groups; sizes have two edges that suit the batches.
        step: (model, data) -> losses by name and gradients by parameter of one training step
            without an optimizer; repeatable, whatever the model draws at random. The model may be
            wrapped in `DistributedDataParallel`; the gradients' names then start with "module.".
        weigh: (plain model, weights float32 [n] by set of groups, by): make its gradients the
            weighted ones in another way than `attach` does; the slow and simple reference.
        by: what it can be weighed by, of scalewise.integrations.options.KINDS.
        exact: those of them for which weight 1 changes no bit of losses and gradients.
        unable: checks that the plain framework itself fails, with the reason.
    """

    framework: str
    family: str
    way: str
    make: Callable[[int, int], Any]
    levels: tuple[int, ...]
    batch: Callable[[tuple[int, ...], int], Any]
    attach: Callable[..., Mapping[str, LossBalancer]]
    step: Callable[[Any, Any], Step]
    weigh: Callable[[Any, Mapping[str, Tensor], str], object]
    by: tuple[str, ...] = ("level",)
    exact: tuple[str, ...] = ()
    unable: Mapping[str, str] = field(default_factory=dict)

    @property
    def main(self) -> tuple[str, ...]:
        """Whole levels and classes, where served: what does not depend on `by` is checked there."""
        return tuple(by for by in ("level", "class") if by in self.by)
