"""What the detectors' losses share: targets, the focal loss, sums per level, the normaliser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scalewise.lab.detectors.room import at_once

CACHE = 2**15  # logits that the focal loss works on at once on a CPU: what its cache holds


class Targets(NamedTuple):
    """What each of A anchors has to predict.

    Attributes:
        positive: bool [B, A].
        labels: int64 [B, A]; num_classes where not positive.
        boxes: float32 [B, A, 4]; the anchor itself where not positive, so that every box is sound
            and terms can be masked instead of gathered, which would wait for the device.
    """

    positive: Tensor
    labels: Tensor
    boxes: Tensor


def gather_targets(
    owner: Tensor, boxes: Tensor, labels: Tensor, anchors: Tensor, num_classes: int
) -> Targets:
    """Turn assigned objects into targets.

    Args:
        owner: int64 [B, A], index of the object of each anchor, M for none.
        boxes: float32 [B, M, 4]; M may be 0.
        labels: int64 [B, M].
        anchors: float32 [A, 4].
        num_classes: the label that stands for none.
    """
    positive = owner < boxes.shape[1]
    # One more row, for "none", also makes M = 0 an ordinary case.
    labels = F.pad(labels, (0, 1), value=num_classes).gather(1, owner)
    boxes = F.pad(boxes, (0, 0, 0, 1)).gather(1, owner[..., None].expand(-1, -1, 4))
    return Targets(positive, labels, torch.where(positive[..., None], boxes, anchors))


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss with gamma 2, summed over classes (Lin et al., ICCV 2017).

    With z the logit whose sign is turned at the true class, each class costs
    `alpha_t * sigmoid(z)^2 * softplus(z)`: one formula for both cases, without one-hot targets.
    Beside the logits and their gradient nothing of their size is held.

    Args:
        logits: float32 [B, A, C].
        labels: int64 [B, A]; C means background.
        alpha: weight of the true class, 1 - alpha for all others.

    Returns:
        float32 [B, A].
    """
    if torch.compiler.is_compiling():  # which fuses it all into one kernel
        return _focal_rows(logits, labels, alpha)
    found: Tensor = _Focal.apply(logits, labels, alpha)
    return found


def _turned(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [..., C] with the sign turned at the true class, and bool [..., C], which that is."""
    true = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(true, -logits, logits), true


def _focal_rows(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    z, true = _turned(logits, labels)
    return (z.sigmoid().square() * F.softplus(z) * torch.where(true, alpha, 1 - alpha)).sum(-1)


class _Focal(torch.autograd.Function):
    """The focal loss of some rows at a time, and its gradient in closed form."""

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


def sum_per_level(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum [B, A] over images and over the anchors of each level: [levels]."""
    return torch.stack([level.sum() for level in torch.split(values.sum(0), list(counts))])


def object_factor(owner: Tensor, objects: int, power: float) -> Tensor:
    """`k^-power` for the positives of an object that has k of them; their mean is 1.

    With power 1 every object counts alike, however many anchors it got.

    Args:
        owner: int64 [B, A], the object of each anchor, `objects` for none.
        objects: number M of rows of objects.
        power: 0 to 1.

    Returns:
        float32 [B, A]; 1 where not positive.
    """
    ones = torch.ones_like(owner, dtype=torch.float32)
    count = ones.new_zeros(len(owner), objects + 1).scatter_add(1, owner, ones).gather(1, owner)
    positive = owner < objects
    raw = torch.where(positive, count**-power, 0.0)
    raw = raw * (positive.sum() / raw.sum().clamp(min=torch.finfo(raw.dtype).tiny))
    return torch.where(positive, raw, 1.0)


def average_over_ranks(values: Tensor) -> Tensor:
    """Mean of `values` over the ranks of the default process group; unchanged without one.

    Gradients are averaged over ranks, so a normaliser averaged over ranks makes data parallel
    training on R ranks equal to one rank with R times the batch.
    """
    if dist.is_available() and dist.is_initialized():
        values = values / dist.get_world_size()
        dist.all_reduce(values)
    return values
