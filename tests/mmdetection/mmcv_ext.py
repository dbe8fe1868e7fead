"""A stand-in for mmcv's compiled operators, so that MMDetection trains without a compiler.

NMS, RoIAlign and deformable convolution use torchvision; every other operator raises an error.
Import this before mmdet, or run a script with it: `python mmcv_ext.py SCRIPT ARGUMENTS`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torchvision import ops


class Operators(ModuleType):
    """A module in which every attribute that is not set is a function that raises an error."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **named: Any) -> Any:
            raise NotImplementedError(f"{name} needs the compiled mmcv")

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    kept: Tensor = ops.nms(boxes.float(), scores.float(), iou_threshold)
    return kept


def _align(values: Tensor, rois: Tensor, to: dict[str, Any]) -> Tensor:
    size = (to["aligned_height"], to["aligned_width"])
    pooled: Tensor = ops.roi_align(
        values, rois, size, to["spatial_scale"], to["sampling_ratio"], to["aligned"]
    )
    return pooled


def roi_align_forward(
    values: Tensor, rois: Tensor, output: Tensor, y: Tensor, x: Tensor, **to: Any
) -> None:
    output.copy_(_align(values, rois, to))


def roi_align_backward(
    gradient: Tensor, rois: Tensor, y: Tensor, x: Tensor, result: Tensor, **to: Any
) -> None:
    with torch.enable_grad():
        values = torch.zeros_like(result, requires_grad=True)  # the pooling is linear
        result.copy_(torch.autograd.grad(_align(values, rois, to), values, gradient)[0])


def _deform(values: Tensor, offset: Tensor, weight: Tensor, to: dict[str, Any]) -> Tensor:
    stride, padding, dilation = (
        (to[f"{name}H"], to[f"{name}W"]) for name in ("d", "pad", "dilation")
    )
    wide = (tensor.float() for tensor in (values, offset, weight))  # no bf16 on the CPU
    result: Tensor = ops.deform_conv2d(
        *wide, None, stride=stride, padding=padding, dilation=dilation
    )
    return result.to(values.dtype)


def deform_conv_forward(
    values: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **to: Any
) -> None:
    output.copy_(_deform(values, offset, weight, to))


def _deform_gradients(
    values: Tensor, offset: Tensor, weight: Tensor, gradient: Tensor, to: dict[str, Any]
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        a, b, c = (t.detach().requires_grad_() for t in (values, offset, weight))
        return torch.autograd.grad(_deform(a, b, c, to), (a, b, c), gradient)


def deform_conv_backward_input(
    values: Tensor,
    offset: Tensor,
    gradient: Tensor,
    of_values: Tensor,
    of_offset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **to: Any,
) -> None:
    found = _deform_gradients(values, offset, weight, gradient, to)
    of_values.copy_(found[0])
    of_offset.copy_(found[1])


def deform_conv_backward_parameters(
    values: Tensor,
    offset: Tensor,
    gradient: Tensor,
    of_weight: Tensor,
    *buffers: Tensor,
    **to: Any,
) -> None:
    # the result is linear in the weight, so its gradient does not depend on the value
    found = _deform_gradients(values, offset, torch.zeros_like(of_weight), gradient, to)
    of_weight.copy_(found[2])


def install() -> None:
    """Register the stand-in under the name of mmcv's compiled module."""
    module = Operators("mmcv._ext")
    module.__spec__ = ModuleSpec("mmcv._ext", None)  # mmengine looks for it
    for operator in (
        nms,
        roi_align_forward,
        roi_align_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
    ):
        setattr(module, operator.__name__, operator)
    sys.modules["mmcv._ext"] = module


if __name__ == "__main__":
    install()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
