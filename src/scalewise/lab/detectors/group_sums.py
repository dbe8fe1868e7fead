"""The losses of a step, summed by level or by the group of the positives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.lab.detectors.batch import Batch
from scalewise.lab.detectors.method import AnchorLosses
from scalewise.weighting.groups import Grouping, sum_groups


def sum_losses(
    found: AnchorLosses, batch: Batch, counts: Sequence[int], grouping: Grouping | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Sum each term of the loss, and count the positives, by group.

    Args:
        found: Losses per anchor.
        batch: The batch of these losses.
        counts: Number of anchors of each level.
        grouping: Grouping of the positives; None sums whole levels.

    Returns:
        For each term float32 [groups], or [groups + 1] with the background last if positives are
        grouped; and the number of positives, float32 [groups].
    """
    if grouping is None:
        sums = {name: sum_per_level(term, counts) for name, term in found.terms.items()}
        return sums, sum_per_level(found.positive.float(), counts)
    rows = torch.stack((*found.terms.values(), found.positive.float()))  # [terms + 1, B, A]
    ids = _group_ids(found, batch, counts, grouping)
    groups = sum_groups(rows, ids, len(grouping.names))  # [terms + 1, n + 1]
    return dict(zip(found.terms, groups[:-1], strict=True)), groups[-1, :-1].detach()


def _group_ids(
    found: AnchorLosses, batch: Batch, counts: Sequence[int], grouping: Grouping
) -> Tensor:
    """The group of each anchor, int64 [B, A]; the number of groups for the background."""
    none = len(grouping.names)
    if grouping.group_of is None:
        level = torch.cat(
            [found.owner.new_full((count,), i) for i, count in enumerate(counts)]
        )  # [A]
        return torch.where(found.positive, level, none)
    boxes = batch.boxes / batch.scales.repeat(1, 2)[:, None]  # [B, M, 4], original pixels
    group = grouping.group_of(boxes, batch.labels)  # [B, M]
    return F.pad(group, (0, 1), value=none).gather(1, found.owner)


def sum_per_level(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum [B, A] over images and over the anchors of each level: [levels]."""
    return torch.stack([level.sum() for level in torch.split(values.sum(0), list(counts))])


def object_factor(owner: Tensor, objects: int, power: float) -> Tensor:
    """`k^-power` for the positives of an object that has k of them; their mean is 1.

    With power 1 every object counts the same, however many anchors it has.

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
