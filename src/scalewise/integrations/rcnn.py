"""The losses of torchvision's Faster and Mask R-CNN per sampled anchor and per region.

Each loss function computes the model's own loss per row, with the model's normaliser: the sum over
all rows is the model's loss, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import project_masks_on_boxes

BETA = 1 / 9  # of the smooth L1 losses


def sum_rows(terms: Mapping[str, Tensor], ids: Tensor, groups: int) -> dict[str, Tensor]:
    """Sum each loss [k] by int64 ids [k] to [groups], in a fixed order, so that runs repeat."""
    mine = ids == torch.arange(groups, device=ids.device)[:, None]  # [groups, k]
    return {
        name: torch.where(mine, values.to(torch.promote_types(values.dtype, torch.float32)), 0).sum(
            1
        )
        for name, values in terms.items()
    }


@dataclass(frozen=True)
class Sample:
    """The k anchors, of all images, that the RPN learns from.

    Attributes:
        rows: int64 [k], their places among all B x A; positives first.
        positives: number of positives.
        terms: losses [k] by name.
    """

    rows: Tensor
    positives: int
    terms: dict[str, Tensor]


def rpn_terms(
    rpn: Any, objectness: Tensor, deltas: Tensor, labels: list[Tensor], wanted: list[Tensor]
) -> Sample:
    """Draw the sample of a `RegionProposalNetwork`, and compute its losses.

    Args:
        rpn: the model's network.
        objectness: [B x A, 1], image by image.
        deltas: [B x A, 4].
        labels: B tensors [A]: 1 object, 0 background, -1 neither.
        wanted: B tensors [A, 4], regression targets.
    """
    positive, negative = (torch.where(torch.cat(drawn))[0] for drawn in rpn.fg_bg_sampler(labels))
    rows = torch.cat([positive, negative])
    box = F.smooth_l1_loss(
        deltas[positive], torch.cat(wanted)[positive], beta=BETA, reduction="none"
    ).sum(-1)
    score = F.binary_cross_entropy_with_logits(
        objectness.flatten()[rows], torch.cat(labels)[rows], reduction="none"
    )
    terms = {"loss_objectness": score, "loss_rpn_box_reg": F.pad(box, (0, len(negative)))}
    return Sample(rows, len(positive), {name: term / len(rows) for name, term in terms.items()})


def roi_terms(logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Losses of the box head per region, [R] each.

    Args:
        logits: [R, C] of the R regions of all images.
        deltas: [R, 4 x C].
        labels: int64 [R], 0 for background.
        wanted: [R, 4], regression targets.
    """
    score = F.cross_entropy(logits, labels, reduction="none")  # [R]
    # masked, not gathered: only the device knows how many regions are positive
    rows = torch.arange(len(labels), device=labels.device)
    chosen = deltas.reshape(len(labels), -1, 4)[rows, labels]  # [R, 4]
    box = F.smooth_l1_loss(chosen, wanted, beta=BETA, reduction="none").sum(-1)
    box = torch.where(labels > 0, box, 0)
    return {"loss_classifier": score / len(labels), "loss_box_reg": box / len(labels)}


def mask_terms(
    logits: Tensor,
    regions: list[Tensor],
    masks: list[Tensor],
    labels: list[Tensor],
    matched: list[Tensor],
) -> dict[str, Tensor]:
    """Loss of the mask head per positive region, [R].

    Args:
        logits: [R, C, s, s] of the positive regions of all images.
        regions: the regions' boxes [r, 4], per image.
        masks: the objects' masks [k, H, W], per image.
        labels: the objects' labels int64 [k], per image.
        matched: object of each region int64 [r], per image.
    """
    if not len(logits):
        return {"loss_mask": logits.sum((1, 2, 3))}
    label = torch.cat([own[at] for own, at in zip(labels, matched, strict=True)])
    wanted = torch.cat(
        [
            project_masks_on_boxes(own, boxes, at, logits.shape[-1])
            for own, boxes, at in zip(masks, regions, matched, strict=True)
        ]
    )
    chosen = logits[torch.arange(len(label), device=label.device), label]  # [R, s, s]
    loss = F.binary_cross_entropy_with_logits(chosen, wanted, reduction="none").mean((1, 2))
    return {"loss_mask": loss / len(label)}
