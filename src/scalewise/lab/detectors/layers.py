"""Layers that do what torch's do, up to rounding, in less time or memory on a CPU."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# From this batch size on torch hands a 1x1 convolution to oneDNN also on one thread; below it a
# matrix product of its own takes twice as long.
ENOUGH = 16
MOST = 128  # images that one batch is cut into in search of equal parts


class Conv(nn.Conv2d):
    """A convolution that is fast on a CPU also where its kernel is 1x1 and its batch is small.

    On maps of one pixel it computes in float32 on a CPU under autocast: there the bfloat16 gradient
    of a weight with stride 2 is memory that nobody wrote to (torch 2.15).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            kernel_size=1,  # given by the weight below
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation = conv.padding, conv.dilation
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        self._pointwise = (
            conv.kernel_size == conv.stride == (1, 1)
            and conv.groups == 1
            and conv.padding == (0, 0)
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        parts = _parts(input) if self._pointwise and _plain_cpu(input) else 0
        if parts:
            cut: Tensor = _Pointwise.apply(input, weight, bias, parts)
            return cut
        exact = _one_pixel_in_autocast(input)
        with torch.autocast("cpu", enabled=False) if exact else nullcontext():
            x = input.float() if exact else input
            usual: Tensor = super()._conv_forward(x, weight, bias)
        return usual


def _one_pixel_in_autocast(x: Tensor) -> bool:
    """Whether x [B, C, H, W] is of one pixel an image, on a CPU under autocast."""
    return x.device.type == "cpu" and x.shape[2:] == (1, 1) and torch.is_autocast_enabled("cpu")


def _plain_cpu(x: Tensor) -> bool:
    """Whether x [B, C, H, W] is of a small batch on the CPU, without a compiler or autocast."""
    return (
        x.device.type == "cpu"
        and len(x) < ENOUGH
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def _parts(x: Tensor) -> int:
    """Into how many equal images, at least `ENOUGH`, the pixels of x can be cut; 0 for none."""
    pixels = len(x) * x.shape[2] * x.shape[3]
    return next((n for n in range(ENOUGH, MOST) if pixels % n == 0), 0)


def _cut(x: Tensor, parts: int) -> Tensor:
    """[B, C, H, W] to [parts, C, 1, pixels of each]: a view where x is channels last."""
    return x.permute(0, 2, 3, 1).reshape(parts, 1, -1, x.shape[1]).permute(0, 3, 1, 2)


def _join(x: Tensor, batch: int, height: int) -> Tensor:
    """The way back."""
    return x.permute(0, 2, 3, 1).reshape(batch, height, -1, x.shape[1]).permute(0, 3, 1, 2)


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution, to which 8 images and their pixels in 16 pieces are the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parts = parts
        output = F.conv2d(_cut(x, parts), weight, bias)
        # .data: no view to autograd, so that an activation in place need not copy
        return _join(output, len(x), x.shape[2]).data

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            *(_cut(grad, ctx.parts), _cut(x, ctx.parts), weight, [len(weight)]),
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, needed),
        )
        return _join(to_x, len(x), x.shape[2]) if needed[0] else None, to_weight, to_bias, None


class ReLU6(nn.Module):
    """min(max(x, 0), 6) in place. The result tells the gradient, so the input is not kept."""

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
    """Put the layers of this module in the place of torch's; names and parameters stay."""
    for path, module in list(body.named_modules(remove_duplicate=False)):
        if type(module) is nn.ReLU6 and module.inplace:
            body.set_submodule(path, ReLU6())
        elif type(module) is nn.Conv2d:
            with torch.device("meta"):  # without a draw of weights that are not kept
                body.set_submodule(path, Conv(module))
