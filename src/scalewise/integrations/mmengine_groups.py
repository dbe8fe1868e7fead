"""Weights on the anchors of MMDetection's dense heads, by the group of their object.

The head's own loss runs once, on its own predictions, and the gradient of each anchor's predictions
is multiplied by the weight of its group. The anchor's object is read from the head's own
assignment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scalewise.integrations.late import LateWeights
from scalewise.integrations.mmengine_anchors import HeadStep, chunks, join_levels, ratio, spread
from scalewise.integrations.mmengine_heads import Anchors, count_levels, of_rpn
from scalewise.integrations.mmengine_losses import (
    LossRows,
    Seen,
    Taps,
    original_boxes,
    show_weighted,
)
from scalewise.integrations.options import AttachError, Options
from scalewise.weighting import Grouping, LossBalancer
from scalewise.weighting.groups import GroupOf, sum_groups


class DenseGroups:
    """Weighs the positives of a head that predicts on levels, or all anchors of a level.

    Args:
        head: the head.
        place: where it assigns objects to anchors.
        options: how losses are grouped.
        grouping: grouping of the objects; None if the level decides.
        rpn: whether the head makes proposals; their losses get other names.

    Raises:
        AttachError: the size of objects is needed but not known, or a loss has parameters or a
            state.
    """

    def __init__(
        self, head: Any, place: Anchors, options: Options, grouping: Grouping | None, rpn: bool
    ) -> None:
        self.head = head
        self.place = place
        self.options = options
        self.grouping = grouping
        self.rpn = rpn
        self.sized = grouping is not None and options.kind != "class"
        if self.sized and place.boxes is None:
            raise AttachError(
                f"{type(head).__name__} keeps no box of an anchor's object, so nothing was "
                "changed; by='class' works"
            )
        if self._sampled and getattr(head, "sampler", None) is None:
            raise AttachError(
                f"this {type(head).__name__} has no sampler, which tells the object of an anchor; "
                "nothing was changed. by='level-positives' works"
            )
        self.priors = [int(k) for k in head.prior_generator.num_base_priors]
        if len(self.priors) != count_levels(head):
            raise AttachError(f"{type(head).__name__} has anchors on {len(self.priors)} levels")
        modules = {name: term.modules for name, term in place.losses.items()}
        self.doubted = [name for name, term in place.losses.items() if term.doubted]
        self.rows = LossRows(head, modules, self.doubted if options.positives else ())
        self.taps = Taps()
        self._step: HeadStep | None = None
        self._seen: Seen | None = None

    @property
    def _sampled(self) -> bool:
        return self.grouping is not None and self.place.boxes == "sampler"

    def connect(self, balancer: LossBalancer) -> None:
        """Take the place of the head's loss and watch its assignment."""
        self.balancer = balancer
        self.taps.replace(self.head, "loss_by_feat", self._loss)
        for number, name in enumerate(self.place.targets):
            self.taps.replace(self.head, name, functools.partial(self._note_targets, number))
        if self._sampled:
            self.taps.replace(self.head.sampler, "sample", self._note_sample)
        for name in self.place.by_level:
            self.taps.replace(self.head, name, functools.partial(self._note_level, name))
        self.rows.connect(self.taps)

    def disconnect(self) -> None:
        """Give the head back as it was."""
        self.taps.remove()

    def take(self, losses: Mapping[str, Any]) -> Seen | None:
        """What the last step's loss was made of; None if the head had no step."""
        seen, self._seen = self._seen, None
        if seen is None or not self.rpn:
            return seen
        return Seen({of_rpn(name): own for name, own in seen.groups.items()}, seen.positives)

    def weigh(
        self, losses: Mapping[str, Any], groups: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Any]:
        """The losses with their weighted values; the gradients are weighted already."""
        return show_weighted(losses, groups, weights)

    def _loss(self, plain: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if not (self.head.training and torch.is_grad_enabled()):
            return plain(*args, **named)
        kinds = len(self.place.predictions)
        maps = args[:kinds]
        if len(maps[0]) != len(self.priors):
            raise AttachError(
                f"{type(self.head).__name__} predicts on {len(maps[0])} levels, but its "
                f"prior_generator knows {len(self.priors)}"
            )
        sizes = [(int(one.shape[-2]), int(one.shape[-1])) for one in maps[0]]
        self._step = step = HeadStep(
            args[kinds + 1],
            sizes,
            [k * h * w for k, (h, w) in zip(self.priors, sizes, strict=True)],
            F.pad(self.balancer.weights, (0, 1), value=1.0),
            [[LateWeights() for _ in sizes] for _ in self.place.targets],
        )
        self._calls = dict.fromkeys(self.place.by_level, 0)
        self.rows.forget()
        self.rows.chunk = 0
        try:
            losses = plain(
                *(
                    [
                        late.pass_on(one.unflatten(1, (k, -1))).flatten(1, 2)
                        for one, late, k in zip(own, step.late[number], self.priors, strict=True)
                    ]
                    for number, own in zip(self.place.predictions, maps, strict=True)
                ),
                *args[kinds:],
                **named,
            )
            with torch.no_grad():
                self._seen = self._sum_up(step, losses)
        finally:
            self._step, self.rows.chunk = None, None
        return losses

    def _note_level(self, name: str, plain: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self._step is not None:
            self.rows.chunk = self._calls[name]
            self._calls[name] += 1
        return plain(*args, **named)

    def _note_sample(self, plain: Callable[..., Any], *args: Any, **named: Any) -> Any:
        result = plain(*args, **named)
        step = self._step
        if step is not None:
            # YOLOX does not sample an image without objects
            image = len(step.masks if self.place.by_image else step.samples)
            step.samples[image] = result
        return result

    def _note_targets(
        self, number: int, plain: Callable[..., Any], *args: Any, **named: Any
    ) -> Any:
        result = plain(*args, **named)
        step = self._step
        if step is None:
            return result
        found = result[self.place.labels]
        with torch.no_grad():
            if not self.place.by_image:
                labels = step.by_image(found)
                positive = (labels >= 0) & (labels < self.head.num_classes)
                if self.place.soft is not None:
                    step.counted = step.by_image(result[self.place.soft]).float()
                self._assign(number, step, positive, labels, result)
                return result
            step.masks.append(found)
            if len(step.masks) == len(step.metas):
                positive = torch.stack(step.masks)
                self._assign(number, step, positive, positive.long(), result)
        return result

    def _assign(
        self, number: int, step: HeadStep, positive: Tensor, labels: Tensor, result: Any
    ) -> None:
        """Find the group of each anchor, and set its weight.

        Args:
            number: number of the assignment.
            step: the current step.
            positive: bool [B, A].
            labels: int64 [B, A]; not used if the sampler knows them.
            result: what the head's method returned.
        """
        none = self.balancer.num_groups
        if self.grouping is None or self.grouping.group_of is None:
            ids = torch.cat(
                [
                    torch.full_like(part, level, dtype=torch.int64)
                    for level, part in enumerate(torch.split(positive, step.counts, 1))
                ],
                1,
            )
            if self.options.positives:
                ids = torch.where(positive, ids, none)
        elif self._sampled:
            own = self._sampled_groups(step, self.grouping.group_of)
            ids = torch.full_like(positive, none, dtype=torch.int64).masked_scatter(positive, own)
        else:
            boxes = self._distant_boxes(step, result) if self.sized else labels.new_zeros(1, 1, 4)
            ids = torch.where(positive, self.grouping.group_of(boxes, labels), none)
        for late, part, k, (height, width) in zip(
            step.late[number],
            torch.split(step.weights[ids], step.counts, 1),
            self.priors,
            step.sizes,
            strict=True,
        ):
            late.values = part.reshape(-1, height, width, k).permute(0, 3, 1, 2).unsqueeze(2)
        step.ids[number], step.positive[number] = ids, positive
        step.samples, step.masks = {}, []

    def _sampled_groups(self, step: HeadStep, group_of: GroupOf) -> Tensor:
        """Groups of the sampled positives, image by image in the order of the anchors."""
        boxes, labels = [], []
        for image, sample in step.samples.items():
            order = sample.pos_inds.argsort()
            boxes.append(original_boxes(sample.pos_gt_bboxes, step.metas[image])[order])
            labels.append(sample.pos_gt_labels[order])
        if not boxes:
            return next(iter(self.balancer.buffers())).new_zeros(0, dtype=torch.int64)
        return group_of(torch.cat(boxes), torch.cat(labels))

    def _distant_boxes(self, step: HeadStep, result: Any) -> Tensor:
        """The box [B, A, 4] of each location's object, with the location at (0, 0)."""
        distances = result[self.place.labels + 1]
        if self.head.norm_on_bbox:
            distances = [
                one * stride for one, stride in zip(distances, self.head.strides, strict=True)
            ]
        left, top, right, bottom = step.by_image(distances, 4).unbind(-1)
        boxes = torch.stack((-left, -top, right, bottom), -1)
        return torch.stack(
            [original_boxes(own, meta) for own, meta in zip(boxes, step.metas, strict=True)]
        )

    def _sum_up(self, step: HeadStep, losses: Mapping[str, Any]) -> Seen:
        """The losses of the groups, and how many positives they have."""
        none = self.balancer.num_groups
        groups: dict[str, Tensor] = {}
        for number, ids in step.ids.items():
            names = [
                name
                for name, term in self.place.losses.items()
                if term.targets == number and name in losses
            ]
            values = [
                spread(step, self.place, name, self.rows.rows, losses[name]) for name in names
            ]
            counted = step.positive[number] if step.counted is None else step.counted
            values.append(counted.to(values[0]))
            sums = sum_groups(torch.stack(values), ids, none)  # [losses + 1, n + 1]
            groups.update(zip(names, sums, strict=False))
            if number == 0:
                positives = sums[-1, :-1]
        if not self.options.positives:
            return Seen({name: own[:none] for name, own in groups.items()})
        return Seen(groups, positives, self._even(step, groups))

    def _even(self, step: HeadStep, groups: Mapping[str, Tensor]) -> Tensor | None:
        """The losses of the groups [n + 1], with the box loss shared out as if nothing doubted."""
        even = self.rows.even
        if not even:
            return None
        total = torch.stack(list(groups.values())).sum(0)
        for name in self.doubted:
            if name in groups:
                terms = join_levels(step, self.place, chunks(step, self.place, name, even))
                (own,) = sum_groups(terms[None], step.ids[0], self.balancer.num_groups)
                total = total - groups[name] + own * ratio(groups[name].sum(), own.sum())
        return total
