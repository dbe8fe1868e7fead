"""Level losses and level weights for detectors whose loss code knows no levels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def split_levels(per_anchor_loss: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum a flat loss per anchor into one loss per level.

    Differentiable, by one segmented sum each way.

    Args:
        per_anchor_loss: floating [..., A], the anchors of all levels one level after the other, as
            dense detectors concatenate them. What leads (images, classes) is summed over.
        counts: number of anchors of each level, n of them; 0 is allowed.

    Returns:
        [n] in the same dtype, float32 at least: `LossBalancer` takes it as it is.

    Raises:
        ValueError: the counts are negative or do not add up to A.

    Example:
        >>> loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # 2 images, 2 + 1 anchors
        >>> split_levels(loss, [2, 1])
        tensor([12.,  9.])
    """
    anchors = per_anchor_loss.shape[-1] if per_anchor_loss.ndim else -1
    if min(counts, default=0) < 0 or sum(counts) != anchors:
        raise ValueError(
            f"counts {list(counts)} add up to {sum(counts)}, but per_anchor_loss has shape "
            f"{tuple(per_anchor_loss.shape)}: its last dimension holds the anchors of all levels"
        )
    flat = per_anchor_loss.to(torch.promote_types(per_anchor_loss.dtype, torch.float32))
    while flat.ndim > 1:
        flat = flat.sum(0)
    lengths = level_sizes(tuple(counts), flat.device)
    # `unsafe` leaves out checks that would read the lengths back from the device
    return torch.segment_reduce(flat, "sum", lengths=lengths, unsafe=True, initial=0)


def level_sizes(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """The counts as int64 [n] on a device; kept, since making one there waits for the device."""
    if torch.compiler.is_compiling():  # a constant of the graph, and the compiler warns of caches
        return torch.tensor(counts, device=device)
    return _kept_sizes(counts, device)


@lru_cache(maxsize=64)  # sizes of multi-scale training
@torch.inference_mode(False)  # made during an evaluation, it must serve a later training step
def _kept_sizes(counts: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(counts, device=device)


def scale_gradients(level_predictions: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """Pass predictions on unchanged and multiply their gradients by the weight of their level.

    As a level's loss depends on that level's predictions alone and on a constant normaliser, this
    gives exactly the gradients of the weighted loss, whatever the loss code; the loss itself is
    reported unweighted. At weight 1 it changes no bit. It is wrong for a loss with parameters of
    its own, which would not see the weights.

    Args:
        level_predictions: one floating tensor per level, any shape; call it once for each kind of
            prediction (classes, boxes, ...).
        weights: floating [n]; taken as they are now, so a later update does not reach backward.

    Returns:
        n tensors with the values of the given ones.

    Raises:
        ValueError: there is not one weight per level.
    """
    if weights.shape != (len(level_predictions),):
        raise ValueError(
            f"{len(level_predictions)} levels need weights of shape ({len(level_predictions)},), "
            f"not {tuple(weights.shape)}"
        )
    now = weights.detach().clone()
    return [
        _ScaleGradient.apply(prediction, now[level])
        for level, prediction in enumerate(level_predictions)
    ]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        # bf16 would round a weight of 1.003 to 1
        wide = torch.promote_types(gradient.dtype, torch.float32)
        return (gradient.to(wide) * weight.to(wide)).to(gradient.dtype), None
