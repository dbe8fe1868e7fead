"""Rows of the losses of MMDetection's dense heads, put in the order of their anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scalewise.integrations.late import LateWeights
from scalewise.integrations.mmengine_heads import Anchors
from scalewise.integrations.options import AttachError

Rows = Mapping[tuple[str, int], Tensor]  # by name of the loss and number of the chunk


@dataclass
class HeadStep:
    """One call of a head's loss, of B images and A anchors."""

    metas: Sequence[Mapping[str, Any]]
    sizes: list[tuple[int, int]]  # height and width of each level
    counts: list[int]  # anchors of each level, for one image
    weights: Tensor  # [n + 1], as in force
    late: list[list[LateWeights]]  # by assignment and level
    ids: dict[int, Tensor] = field(default_factory=dict)  # int64 [B, A] by assignment; n for none
    positive: dict[int, Tensor] = field(default_factory=dict)  # bool [B, A] by assignment
    counted: Tensor | None = None  # [B, A], what each positive of the first assignment counts as
    samples: dict[int, Any] = field(default_factory=dict)  # of the next assignment, by image
    masks: list[Tensor] = field(default_factory=list)  # the same, image by image

    def by_image(self, found: Tensor | Sequence[Tensor], *shape: int) -> Tensor:
        """Turn values, level by level and within a level image by image, to [B, A, *shape]."""
        images = len(self.metas)
        if isinstance(found, Tensor):
            found = torch.split(found, [images * count for count in self.counts])
        parts = zip(found, self.counts, strict=True)
        return torch.cat([part.reshape(images, count, *shape) for part, count in parts], 1)


def spread(step: HeadStep, place: Anchors, name: str, rows: Rows, loss: Any) -> Tensor:
    """Split a loss into one term per anchor, float32 [B, A]; their sum is the loss."""
    entries = loss if place.by_level else [loss]
    found = [
        terms * ratio(entry.detach().float().mean(), terms.sum())
        for terms, entry in zip(chunks(step, place, name, rows), entries, strict=True)
    ]
    return join_levels(step, place, found)


def chunks(step: HeadStep, place: Anchors, name: str, rows: Rows) -> list[Tensor]:
    """The rows of a loss: float32 [B, A of the level] for each level, 0 for anchors without a row.

    If losses are scalars, there is one chunk for all levels, [B, A] or flat, as the head's rows.

    Raises:
        AttachError: the number of rows does not fit the anchors.
    """
    positive = step.positive[place.losses[name].targets]
    masks: Sequence[Tensor] = [positive]
    if not place.by_image:
        masks = torch.split(positive, step.counts, 1)
    if not (place.by_level or place.by_image):
        masks = [torch.cat([mask.reshape(-1) for mask in masks])]
    return [_terms(place, name, rows.get((name, at)), mask) for at, mask in enumerate(masks)]


def join_levels(step: HeadStep, place: Anchors, found: list[Tensor]) -> Tensor:
    """Join what `chunks` returned to [B, A]."""
    if place.by_level:
        return torch.cat(found, 1)
    return found[0] if place.by_image else step.by_image(found[0])


def ratio(loss: Tensor, total: Tensor) -> Tensor:
    """Ratio of a loss to the sum of its rows, which may be 0."""
    return loss / torch.where(total == 0, 1, total)


def _terms(place: Anchors, name: str, rows: Tensor | None, positive: Tensor) -> Tensor:
    term = place.losses[name]
    if rows is None:  # the head found no positives
        return torch.zeros_like(positive, dtype=torch.float32)
    rows = rows.view(-1, term.rows).sum(1) if term.rows > 1 else rows
    if term.positives:
        return torch.zeros_like(positive, dtype=torch.float32).masked_scatter(positive, rows)
    if rows.numel() != positive.numel():
        raise AttachError(
            f"{name} has {rows.numel()} rows, but there are {positive.numel()} anchors: this head "
            "does not work as MMDetection's own"
        )
    return rows.view(positive.shape)
