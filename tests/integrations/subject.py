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
        family: the family of models.
        way: how weights reach the gradients, "split" or "gradient scaling".
        make: (levels, seed) -> a float32 model in training mode; equal seeds give equal models.
        levels: possible numbers of levels, the usual one first.
        batch: (objects per image, seed) -> data for `step`; (0, 2) means an empty image and one
            with two objects.
        attach: (model, scheme, by=, interval=, normalize=, accumulate=, seed=) -> the model's
            balancers by set of groups; the two edges of sizes suit the batches.
        step: (model, data) -> losses by name and gradients by parameter of one training step
            without an optimizer; random draws are the same every time. The model may be wrapped
            in `DistributedDataParallel`; names of gradients then start with "module.".
        weigh: (plain model, weights float32 [n] by set of groups, by): weigh the gradients of the
            model without `attach`; the slow and simple reference.
        by: kinds of groups that work, a part of scalewise.integrations.options.KINDS.
        exact: kinds of groups for which weight 1 changes no bit of losses and gradients.
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
        """Level and class, if they work: used in checks that do not depend on the kind of group."""
        return tuple(by for by in ("level", "class") if by in self.by)
