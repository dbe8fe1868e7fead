"""The focal loss, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scalewise.lab.detectors.room import at_once

CACHE = 2**15  # logits that a CPU works on at once: as many as its cache holds


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss with gamma 2, summed over classes (Lin et al., ICCV 2017).

    Let z be the logit, with its sign turned at the true class. Each class costs
    `alpha_t * sigmoid(z)^2 * softplus(z)`: one formula for both cases, without one-hot targets.
    No other tensor as large as the logits is kept, except their gradient.

    Args:
        logits: float32 [B, A, C].
        labels: int64 [B, A]; C means background.
        alpha: weight of the true class; all others have 1 - alpha.

    Returns:
        float32 [B, A].
    """
    if torch.compiler.is_compiling():  # the compiler makes one kernel of it
        return _focal_rows(logits, labels, alpha)
    found: Tensor = _Focal.apply(logits, labels, alpha)
    return found


def _turned(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [..., C] with the sign turned at the true class; bool [..., C], True at that class."""
    true = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(true, -logits, logits), true


def _focal_rows(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    z, true = _turned(logits, labels)
    return (z.sigmoid().square() * F.softplus(z) * torch.where(true, alpha, 1 - alpha)).sum(-1)


class _Focal(torch.autograd.Function):
    """The focal loss, computed for some rows at a time, and its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.alpha = alpha
        parts = [_focal_rows(x, label, alpha) for x, label in _rows(logits, labels)]
        return torch.cat(parts).view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, labels = ctx.saved_tensors
        slopes = logits.new_empty(logits.shape)
        for x, label, above, slope in _rows(logits, labels, grad, slopes):
            z, true = _turned(x, label)
            p = z.sigmoid()
            # p^2 softplus(z) rises with z by p^2 (2 (1 - p) softplus(z) + p)
            rise = F.softplus(z).mul_(1 - p).mul_(2).add_(p).mul_(p).mul_(p)
            turn = torch.where(true, -ctx.alpha, 1 - ctx.alpha)
            torch.mul(rise, turn.mul_(above[:, None]), out=slope)
        return slopes, None, None


def _rows(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows at a time of logits [..., C] and of what belongs to them, [...] or [..., C]."""
    classes = logits.shape[-1]
    on_cpu = logits.device.type == "cpu"
    step = max(1, (CACHE if on_cpu else at_once(logits.device, logits.numel())) // classes)
    rows = (logits, *others)
    flat = [x.reshape(-1, classes) if x.dim() == logits.dim() else x.reshape(-1) for x in rows]
    return zip(*(torch.split(x, step) for x in flat), strict=True)
