"""Weights on the regions of MMDetection's second stages, by the group of their object."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scalewise.integrations.late import LateWeights
from scalewise.integrations.mmengine_heads import defining
from scalewise.integrations.mmengine_losses import (
    LossRows,
    Seen,
    Taps,
    original_boxes,
    show_weighted,
)
from scalewise.integrations.options import AttachError
from scalewise.weighting import Grouping, LossBalancer
from scalewise.weighting.groups import sum_groups

_LOSSES = ("loss_cls", "loss_bbox")
_MASK = "loss_mask"


class RoIGroups:
    """Weighs the regions of objects in the losses of a second stage, in all stages of a cascade.

    These are the losses of the classes, of the boxes and, where `FCNMaskHead` computes them as a
    mean over the regions, of the masks. Other losses of masks are left alone, with a warning.

    Args:
        roi_head: of the detector.
        grouping: of objects.

    Raises:
        AttachError: the losses of this head are not known, or have parameters or a state.
    """

    def __init__(self, roi_head: Any, grouping: Grouping) -> None:
        self.roi_head = roi_head
        self.grouping = grouping
        box_heads = roi_head.bbox_head
        self.cascade = isinstance(box_heads, nn.ModuleList)
        self.heads: list[Any] = list(box_heads) if self.cascade else [box_heads]
        for owner, method, known in [
            (roi_head, "bbox_loss", ("StandardRoIHead", "CascadeRoIHead")),
            *((head, "loss", ("BBoxHead",)) for head in self.heads),
            *((head, "loss_and_target", ("BBoxHead",)) for head in self.heads),
        ]:
            own = defining(owner, method)
            if own.__module__.split(".")[0] != "mmdet" or own.__name__ not in known:
                raise AttachError(
                    f"{type(owner).__name__}: {method} of {own.__name__} is not known, so nothing "
                    f"was changed; known are {' and '.join(known)} and what inherits theirs"
                )
        self.rows = [LossRows(head, {name: (name,) for name in _LOSSES}) for head in self.heads]
        self.mask_heads = _mask_heads(roi_head)
        self.taps = Taps()
        self.metas: Sequence[Mapping[str, Any]] = ()
        self.stages: dict[int, dict[str, Tensor]] = {}  # by the loss's name; the last step's

    def connect(self, balancer: LossBalancer) -> None:
        """Take the place of the heads' losses."""
        self.balancer = balancer
        self.taps.replace(self.roi_head, "loss", self._note_images)
        for stage, head in enumerate(self.heads):
            self.taps.replace(head, "loss_and_target", functools.partial(self._loss, stage))
            self.rows[stage].connect(self.taps)
        for stage, head in enumerate(self.mask_heads):
            self.taps.replace(head, "loss_and_target", functools.partial(self._mask_loss, stage))

    def disconnect(self) -> None:
        """Give the heads back as they were."""
        self.taps.remove()

    def take(self, losses: Mapping[str, Any]) -> Seen | None:
        """What the last step's loss was made of; None if there was none."""
        stages, self.stages = self.stages, {}
        if not stages:
            return None
        groups: dict[str, Tensor] = {}
        for stage, sums in stages.items():
            for name in (*_LOSSES, _MASK):
                key = f"s{stage}.{name}" if self.cascade else name
                if key in losses and name in sums:
                    total = sums[name].sum()
                    share = sums[name] / torch.where(total == 0, 1, total)
                    groups[key] = share * losses[key].detach().float().mean()
        return Seen(groups, torch.stack([sums["positives"] for sums in stages.values()]).sum(0))

    def weigh(
        self, losses: Mapping[str, Any], groups: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Any]:
        """The losses with their weighted values; the gradients are weighted already."""
        return show_weighted(losses, groups, weights)

    def _note_images(self, plain: Callable[..., Any], *args: Any, **named: Any) -> Any:
        samples = named["batch_data_samples"] if "batch_data_samples" in named else args[2]
        self.metas = [sample.metainfo for sample in samples]
        self.stages = {}
        return plain(*args, **named)

    def _loss(
        self,
        stage: int,
        plain: Callable[..., Any],
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: Sequence[Any],
        *args: Any,
        **named: Any,
    ) -> Any:
        rest = (rois, sampling_results, *args)
        if not (self.heads[stage].training and torch.is_grad_enabled()):
            return plain(cls_score, bbox_pred, *rest, **named)
        with torch.no_grad():
            ids = self._groups(sampling_results)  # [R]
            late = LateWeights()
            late.values = F.pad(self.balancer.weights, (0, 1), value=1.0)[ids][:, None]
        rows = self.rows[stage]
        rows.rows, rows.chunk = {}, 0
        try:
            passed = (late.pass_on(cls_score), late.pass_on(bbox_pred))
            result = plain(*passed, *rest, **named)
        finally:
            rows.chunk = None
        with torch.no_grad():
            none = self.balancer.num_groups
            positive = ids < none
            cls_rows = rows.rows.get(("loss_cls", 0), late.values.new_zeros(len(ids)))
            found = rows.rows.get(("loss_bbox", 0))
            box_rows = torch.zeros_like(cls_rows)
            if found is not None:
                box_rows = box_rows.masked_scatter(positive, found)
            values = torch.stack((cls_rows, box_rows, positive.float()))[:, None]
            sums = sum_groups(values, ids[None], none)  # [3, n + 1]
        self.stages[stage] = {
            "loss_cls": sums[0],
            "loss_bbox": sums[1],
            "positives": sums[2, :-1],
        }
        return result

    def _mask_loss(
        self,
        stage: int,
        plain: Callable[..., Any],
        mask_preds: Tensor,
        sampling_results: Sequence[Any],
        *args: Any,
        **named: Any,
    ) -> Any:
        head = self.mask_heads[stage]
        if not (head.training and torch.is_grad_enabled()):
            return plain(mask_preds, sampling_results, *args, **named)
        none = self.balancer.num_groups
        with torch.no_grad():
            ids = torch.cat(self._object_groups(sampling_results))  # [P]
            late = LateWeights()
            late.values = self.balancer.weights[ids][:, None, None, None]
        result = plain(late.pass_on(mask_preds), sampling_results, *args, **named)
        with torch.no_grad():
            labels = torch.cat([sample.pos_gt_labels for sample in sampling_results])
            channel = torch.zeros_like(labels) if head.class_agnostic else labels
            rows = F.binary_cross_entropy_with_logits(
                mask_preds[torch.arange(len(channel), device=channel.device), channel].float(),
                result["mask_targets"].float(),
                reduction="none",
            ).mean((1, 2))  # [P]
            self.stages[stage][_MASK] = sum_groups(rows[None], ids[None], none)  # [n + 1]
        return result

    def _groups(self, samples: Sequence[Any]) -> Tensor:
        """The group of each region, int64 [R]; each image's positive regions come first."""
        none = self.balancer.num_groups
        parts = []
        for sample, own in zip(samples, self._object_groups(samples), strict=True):
            parts += [own, own.new_full((len(sample.neg_priors),), none)]
        return torch.cat(parts)

    def _object_groups(self, samples: Sequence[Any]) -> list[Tensor]:
        """The groups of the objects of each image's positive regions, int64 [k] each."""
        group_of = self.grouping.group_of
        assert group_of is not None
        return [
            group_of(original_boxes(sample.pos_gt_bboxes, meta), sample.pos_gt_labels)
            for sample, meta in zip(samples, self.metas, strict=True)
        ]


def _mask_heads(roi_head: Any) -> list[Any]:
    """The mask heads if each loss is a mean over regions; else none, and a warning."""
    if not getattr(roi_head, "with_mask", False):
        return []
    found = roi_head.mask_head
    heads = list(found) if isinstance(found, nn.ModuleList) else [found]
    for head in heads:
        own = defining(head, "loss_and_target")
        loss: Any = getattr(head, "loss_mask", None)
        if (
            f"{own.__module__.split('.')[0]}.{own.__name__}" != "mmdet.FCNMaskHead"
            or type(loss).__name__ != "CrossEntropyLoss"
            or not loss.use_mask
            or loss.class_weight is not None
        ):
            warnings.warn(
                f"scalewise: the masks' loss of {type(head).__name__} with {type(loss).__name__} "
                "is not known, so it stays as it is; the losses of classes and boxes are weighed",
                stacklevel=2,
            )
            return []
    return heads
