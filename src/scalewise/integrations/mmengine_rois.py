"""Weights on the regions of MMDetection's second stages, by the group of their object."""

from __future__ import annotations

import functools
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


class RoIGroups:
    """Weighs the regions of objects in the box losses of a second stage, all stages of a cascade.

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
            for name in _LOSSES:
                key = f"s{stage}.{name}" if self.cascade else name
                if key in losses:
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

    def _groups(self, samples: Sequence[Any]) -> Tensor:
        """The group of each region, int64 [R]; of each image the positive ones come first."""
        none = self.balancer.num_groups
        assert self.grouping.group_of is not None
        parts = []
        for sample, meta in zip(samples, self.metas, strict=True):
            boxes = original_boxes(sample.pos_gt_bboxes, meta)
            labels = sample.pos_gt_labels
            parts.append(self.grouping.group_of(boxes, labels))
            parts.append(labels.new_full((len(sample.neg_priors),), none))
        return torch.cat(parts)
