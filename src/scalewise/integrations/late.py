"""Weights on the gradients of predictions, set once the loss has assigned objects to anchors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LateWeights:
    """Weights of a prediction's anchors, set after the prediction and before its backward pass.

    Take a loss that is a sum over anchors, where each term depends on the predictions of its own
    anchor only. If the gradient of each anchor's predictions is multiplied by the anchor's weight,
    the result is exactly the gradient of the weighted loss. The loss's own code stays as it is, and
    a weight of 1 changes no bit. This is wrong for a loss with parameters of its own: they would
    not see the weights.

    Attributes:
        values: floating, in a shape that broadcasts to the predictions. None, the value at the
            start, leaves the gradients as they are.

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
        """Return the same values; their gradient will be multiplied by the weights."""
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
