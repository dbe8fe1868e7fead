"""Convolutions that are fast on one thread of a CPU also if they are 1x1 and only mix channels."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# On one thread, torch uses oneDNN for a 1x1 convolution from this batch size on, and for smaller
# batches a matrix product, which takes twice as long. On two threads and more, what torch chooses
# is as fast as oneDNN or faster.
ENOUGH = 16
MOST = 128  # a batch is cut into fewer parts than this


class Conv(nn.Conv2d):
    """A convolution that is fast on one thread also if its kernel is 1x1 and its batch is small.

    On a CPU under autocast it computes maps of one pixel in float32: for them torch 2.15 returns
    unwritten memory as the bfloat16 gradient of a weight with stride 2.
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
    """Whether x [B, C, H, W] has one pixel per image, on a CPU under autocast."""
    return x.device.type == "cpu" and x.shape[2:] == (1, 1) and torch.is_autocast_enabled("cpu")


def _plain_cpu(x: Tensor) -> bool:
    """Whether x [B, C, H, W] is a small batch on one thread, without a compiler or autocast."""
    return (
        x.device.type == "cpu"
        and len(x) < ENOUGH
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() == 1  # no compiler can trace this call
        and not torch.is_autocast_enabled("cpu")
    )


def _parts(x: Tensor) -> int:
    """The number of equal parts, at least `ENOUGH`, into which x can be cut; 0 for none."""
    pixels = len(x) * x.shape[2] * x.shape[3]
    return next((n for n in range(ENOUGH, MOST) if pixels % n == 0), 0)


def _cut(x: Tensor, parts: int) -> Tensor:
    """[B, C, H, W] to [parts, C, 1, pixels of each]: a view where x is channels last."""
    return x.permute(0, 2, 3, 1).reshape(parts, 1, -1, x.shape[1]).permute(0, 3, 1, 2)


def _join(x: Tensor, batch: int, height: int) -> Tensor:
    """Undo `_cut`."""
    return x.permute(0, 2, 3, 1).reshape(batch, height, -1, x.shape[1]).permute(0, 3, 1, 2)


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution; it works on each pixel alone, so images may be cut into parts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parts = parts
        output = F.conv2d(_cut(x, parts), weight, bias)
        # .data is not a view for autograd, so an activation in place needs no copy
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
