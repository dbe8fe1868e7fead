"""Weights on the gradients of predictions, set once the loss has assigned objects to anchors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LateWeights:
    """Weights of a prediction's anchors that are known after it was made, before its backward pass.

    A loss that is a sum over anchors, each of whose terms depends on that anchor's predictions
    alone, has exactly the gradients of the weighted loss when the gradient of each anchor's
    predictions is multiplied by its weight. The loss's own code stays as it is, and at weight 1 no
    bit changes. It is wrong for a loss with parameters of its own, which would not see the weights.

    Attributes:
        values: floating, of a shape that broadcasts to the predictions passed on; None, before it
            is set, leaves the gradients alone.

    Examples:
        >>> late = LateWeights()
        >>> logits = torch.zeros(2, 3, requires_grad=True)  # 2 anchors, 3 classes
        >>> seen = late.pass_on(logits)
        >>> late.values = torch.tensor([[1.0], [2.0]])
        >>> seen.sum().backward()
        >>> logits.grad
        tensor([[1., 1., 1.],
                [2., 2., 2.]])
    """

    def __init__(self) -> None:
        self.values: Tensor | None = None

    def pass_on(self, prediction: Tensor) -> Tensor:
        """The same values, whose gradient will be multiplied by the weights."""
        passed: Tensor = _Late.apply(prediction, self)
        return passed


class _Late(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prediction: Tensor, late: LateWeights) -> Tensor:
        ctx.late = late
        return prediction.view_as(prediction)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        weights = ctx.late.values
        if weights is None:
            return gradient, None
        # bf16 would round a weight of 1.003 to 1
        wide = torch.promote_types(gradient.dtype, torch.float32)
        return (gradient.to(wide) * weights.to(wide)).to(gradient.dtype), None
