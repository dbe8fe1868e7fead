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
        attach: (model, scheme, interval=, normalize=, accumulate=, seed=) -> the model's balancers
            by set of levels.
        step: (model, data) -> losses by name and gradients by parameter of one training step
            without an optimizer; repeatable, whatever the model draws at random. The model may be
            wrapped in `DistributedDataParallel`; the gradients' names then start with "module.".
        weigh: (plain model, weights float32 [n] by set of levels): make its gradients the weighted
            ones in another way than `attach` does; the slow and simple reference.
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
    weigh: Callable[[Any, Mapping[str, Tensor]], None]
    unable: Mapping[str, str] = field(default_factory=dict)
