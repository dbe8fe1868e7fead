"""Groups: which one each positive is in, and sums of losses by group or level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scalewise.weighting.balancer import LossBalancer

COCO_EDGES = (32.0, 96.0)  # sides, in pixels, between small, medium and large objects
GroupOf = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Grouping:
    """What positives are grouped by.

    Attributes:
        by: "size", "class", "level-positives", or a name of your own.
        names: of the groups.
        group_of: from boxes float32 [..., 4] (x1, y1, x2, y2) in pixels of the original image and
            labels int64 [...] to groups int64 [...]; None where the level of the anchor decides.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> def shape(boxes, labels):
        ...     return (boxes[..., 2] - boxes[..., 0] > boxes[..., 3] - boxes[..., 1]).long()
        >>> groups = sw.Grouping("shape", ("tall", "wide"), shape)
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 40.0], [0.0, 0.0, 40.0, 10.0]])
        >>> groups.group_of(boxes, torch.tensor([0, 0]))
        tensor([0, 1])
    """

    by: str
    names: tuple[str, ...]
    group_of: GroupOf | None


def by_class(classes: Sequence[str]) -> Grouping:
    """Group positives by the class of their object.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> groups = sw.by_class(["cat", "dog"])
        >>> groups.names
        ('cat', 'dog')
        >>> groups.group_of(torch.zeros(3, 4), torch.tensor([1, 0, 1]))
        tensor([1, 0, 1])
    """
    return Grouping("class", tuple(classes), _label)


def _label(boxes: Tensor, labels: Tensor) -> Tensor:
    return labels


def by_size(edges: Sequence[float] = COCO_EDGES) -> Grouping:
    """Group positives by the side of their object, the square root of its box's area.

    Args:
        edges: ascending, in pixels of the original image; by default COCO's, between small, medium
            and large.

    Raises:
        ValueError: the edges do not ascend from above 0.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> groups = sw.by_size()
        >>> boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 200.0, 100.0]])
        >>> [groups.names[i] for i in groups.group_of(boxes, torch.tensor([0, 0]))]
        ['small', 'large']
        >>> sw.by_size([64]).names
        ('under 64', 'over 64')
    """
    limits = [float(edge) for edge in edges]
    if not limits or not limits[0] > 0 or limits != sorted(set(limits)):
        raise ValueError(f"edges of sizes must ascend from above 0, got {list(edges)}")
    names = ["small", "medium", "large"]
    if len(limits) != 2:
        inner = [f"{low:g}-{high:g}" for low, high in pairwise(limits)]
        names = [f"under {limits[0]:g}", *inner, f"over {limits[-1]:g}"]
    return Grouping("size", tuple(names), partial(_bucket, tuple(limits)))


def _bucket(edges: tuple[float, ...], boxes: Tensor, labels: Tensor) -> Tensor:
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    group = torch.zeros_like(side, dtype=torch.int64)
    for edge in edges:  # a comparison each: an array of edges would have to be sent to the device
        group = group + (side >= edge)
    return group


def by_level(names: Sequence[str]) -> Grouping:
    """Group positives by the level of their anchor; the background keeps weight 1.

    Examples:
        >>> import scalewise as sw
        >>> sw.by_level(["P3", "P4", "P5"]).by
        'level-positives'
    """
    return Grouping("level-positives", tuple(names), None)


def product(first: Grouping, second: Grouping) -> Grouping:
    """Group positives by two things at once: "small cat", "small dog", ..., "large dog".

    Raises:
        ValueError: one of them is by level.

    Examples:
        >>> import scalewise as sw
        >>> sw.product(sw.by_size([32]), sw.by_class(["cat", "dog"])).names
        ('under 32 cat', 'under 32 dog', 'over 32 cat', 'over 32 dog')
    """
    one, other = first.group_of, second.group_of
    if one is None or other is None:
        raise ValueError("levels have no product with another grouping")
    return Grouping(
        f"{first.by}*{second.by}",
        tuple(f"{a} {b}" for a in first.names for b in second.names),
        partial(_cell, one, other, len(second.names)),
    )


def _cell(one: GroupOf, other: GroupOf, count: int, boxes: Tensor, labels: Tensor) -> Tensor:
    return one(boxes, labels) * count + other(boxes, labels)


def sum_groups(values: Tensor, ids: Tensor, groups: int) -> Tensor:
    """Sum values of anchors by group; anchors in no group have a sum of their own.

    Differentiable, with one scatter forward and one gather backward for any number of groups.

    Args:
        values: float32 [..., B, A], of B images and A anchors.
        ids: int64 [B, A], the group of each anchor; `groups` for none.
        groups: their number n.

    Returns:
        float32 [..., n + 1]; the last is what is in no group.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> values = torch.tensor([[1.0, 2.0, 3.0]])  # of one image, 3 anchors
        >>> sw.sum_groups(values, torch.tensor([[0, 2, 0]]), 2)  # groups 0 and 1, then the rest
        tensor([4., 0., 2.])
    """
    # image by image: on a GPU a single sum for all would make its writers wait for each other
    sums = values.new_zeros(*values.shape[:-1], groups + 1)
    return sums.scatter_add(-1, ids.expand(values.shape), values).sum(-2)


def weigh_positives(per_anchor_loss: Tensor, group_ids: Tensor, balancer: LossBalancer) -> Tensor:
    """The weighted total of any loss that is a sum over anchors.

    Args:
        per_anchor_loss: floating [B, A] or [A], normalised as the detector normalises it: its sum
            is the detector's loss.
        group_ids: int64 of that shape, the group of each positive anchor, -1 for all others.
        balancer: of groups of positives.

    Returns:
        Scalar to back-propagate.

    Raises:
        ValueError: the shapes differ.
        RuntimeError: an id is not below the number of groups; on a GPU when the device gets there.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["small", "large"], "size:small=2", by="size")
        >>> loss = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)  # of 3 anchors
        >>> sw.weigh_positives(loss, torch.tensor([-1, 0, 1]), balancer)  # 1 + 2 * 2 + 3
        tensor(8., grad_fn=<DotBackward0>)
    """
    if per_anchor_loss.shape != group_ids.shape:
        raise ValueError(
            f"the loss is of shape {tuple(per_anchor_loss.shape)}, the group ids of shape "
            f"{tuple(group_ids.shape)}; give one id for each anchor, -1 for the background"
        )
    groups = balancer.num_groups
    torch._assert_async(
        (group_ids < groups).all(),
        f"the balancer has the groups 0 to {groups - 1}, and an id is above; background is -1",
    )
    wide = torch.promote_types(per_anchor_loss.dtype, torch.float32)
    values = per_anchor_loss.to(wide).reshape(-1, per_anchor_loss.shape[-1])
    ids = torch.where(group_ids < 0, groups, group_ids).reshape(values.shape)
    positives = (ids < groups).to(wide)
    sums = sum_groups(torch.stack((values, positives)), ids, groups)  # [2, n + 1]
    return balancer(sums[0], sums[1, :-1])


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

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # 2 images, 2 + 1 anchors
        >>> sw.split_levels(loss, [2, 1])
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
    """Return predictions unchanged, but multiply their gradients by the weight of their level.

    If a level's loss depends only on that level's predictions and on a constant normaliser, these
    are exactly the gradients of the weighted loss. The loss itself is reported unweighted. With
    weight 1 no bit changes. It is wrong for a loss with parameters of its own, whose gradients
    would not be weighted.

    Args:
        level_predictions: one floating tensor per level, any shape; call it once for each kind of
            prediction (classes, boxes, ...).
        weights: floating [n]; taken as they are now, so a later update does not reach backward.

    Returns:
        n tensors with the values of the given ones.

    Raises:
        ValueError: there is not one weight per level.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> fine = torch.ones(2, requires_grad=True)
        >>> coarse = torch.ones(1, requires_grad=True)
        >>> levels = sw.scale_gradients([fine, coarse], torch.tensor([1.0, 3.0]))
        >>> sum(level.sum() for level in levels).backward()
        >>> fine.grad, coarse.grad
        (tensor([1., 1.]), tensor([3.]))
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
