"""Layers with the results of torch's layers, up to rounding, in less time or memory on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.lab.detectors.pointwise import Conv


class ReLU6(nn.Module):
    """min(max(x, 0), 6) in place. The gradient follows from the result; the input is not kept."""

    def forward(self, input: Tensor) -> Tensor:
        """[...] to [...], the same tensor; a new one while compiling."""
        if torch.compiler.is_compiling():
            return F.relu6(input)
        if not (input.requires_grad and torch.is_grad_enabled()):
            return input.clamp_(0, 6)
        output: Tensor = _ReLU6.apply(input)
        return output


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        output = x.clamp_(0, 6)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        found: Tensor = torch.ops.aten.hardtanh_backward(grad, output, 0, 6)
        return found


def lighten(body: nn.Module) -> None:
    """Replace torch's layers by those of this module; names and parameters stay."""
    for path, module in list(body.named_modules(remove_duplicate=False)):
        if type(module) is nn.ReLU6 and module.inplace:
            body.set_submodule(path, ReLU6())
        elif type(module) is nn.Conv2d:
            with torch.device("meta"):  # makes no random weights, which would not be kept
                body.set_submodule(path, Conv(module))
