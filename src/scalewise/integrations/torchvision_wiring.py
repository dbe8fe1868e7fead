"""What `attach` changes in torchvision's detectors: hooks and replaced methods of one model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from scalewise.integrations.attached import AttachedBalancer
from scalewise.integrations.dense import (
    Step,
    anchor_groups,
    groups_at,
    level_ids,
    sum_by_group,
    sum_by_level,
)
from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.rcnn import mask_terms, roi_terms, rpn_terms, sum_rows
from scalewise.weighting import Grouping, by_level


@dataclass(frozen=True)
class Groups:
    """How a model's losses are grouped.

    Attributes:
        options: as given, with the names of the classes filled in.
        first: the label of the first class; lower ones are in no group.
    """

    options: Options
    first: int = 0

    def of_set(self, levels: int) -> Grouping | tuple[str, ...]:
        """The groups of a set of that many levels."""
        names = tuple(f"level{i}" for i in range(levels))
        if not self.options.positives:
            return names
        return self._objects() if self.options.by_objects else by_level(names)

    def _objects(self) -> Grouping:
        # made at each use, because its functions cannot be pickled with the model
        return self.options.group_objects(self.options.classes)

    def of_objects(self, boxes: Tensor, labels: Tensor, scale: float) -> Tensor:
        """The group of each object, int64 [k]; the number of groups for an object in none.

        Args:
            boxes: [k, 4] in pixels of the image that the model sees.
            labels: int64 [k].
            scale: factor from these pixels to pixels of the original image.
        """
        grouping = self._objects()
        assert grouping.group_of is not None
        ids = grouping.group_of(boxes.float() * scale, labels - self.first)
        return torch.where(labels < self.first, len(grouping.names), ids)


class Wiring(ABC):
    """Hooks and replaced methods of one model, all bound to this object so that copies work.

    Args:
        model: the detector.
        groups: what is weighed.
        levels: number of levels of each set of groups.
        places: names of the model's parts that have hooks or replaced methods.
    """

    attached: AttachedBalancer

    def __init__(
        self, model: Any, groups: Groups, levels: Mapping[str, int], places: Sequence[str]
    ) -> None:
        self.parts = {place: model.get_submodule(place) for place in places}
        self.model = model
        self.groups = groups
        self.levels = dict(levels)
        self.scales: list[float] = []
        self._handles: list[RemovableHandle] = []
        self._replaced: list[tuple[Any, str]] = []

    def connect(self, attached: AttachedBalancer) -> None:
        """Put the hooks in place."""
        self.attached = attached
        attached.wiring = self
        self._handles.append(self.model.register_forward_pre_hook(self._check_parts))
        if self.groups.options.by_objects:
            self._handles.append(self.model.transform.register_forward_hook(self._note_scales))
        self._connect()

    @abstractmethod
    def _connect(self) -> None:
        """Set the hooks and replace the methods of this kind of model."""

    def _check_parts(self, model: nn.Module, inputs: Any) -> None:
        """Refuse a model whose head has been changed: the weights would not act.

        Raises:
            AttachError: a part is neither the one that was attached nor a wrapper of it.
        """
        for place, part in self.parts.items():
            found = model.get_submodule(place)
            if model.training and found is not part and all(m is not part for m in found.modules()):
                raise AttachError(
                    f"{place} of this {type(model).__name__} was replaced after sw.attach, so the "
                    "weights would have no effect; call sw.detach(model), then sw.attach again"
                )

    def _replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        setattr(owner, name, method)  # on the instance: deleting it restores the class's method
        self._replaced.append((owner, name))

    def disconnect(self) -> None:
        """Undo all changes."""
        for handle in self._handles:
            handle.remove()
        for owner, name in self._replaced:
            delattr(owner, name)
        self._handles, self._replaced = [], []

    def _note_scales(self, transform: nn.Module, inputs: Any, output: Any) -> None:
        before = [image.shape[-2] * image.shape[-1] for image in inputs[0]]
        after = [height * width for height, width in output[0].image_sizes]
        self.scales = [math.sqrt(b / a) for b, a in zip(before, after, strict=True)]

    def _objects(self, targets: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """The groups of the objects of each image, int64 [k]."""
        return [
            self.groups.of_objects(one["boxes"], one["labels"], scale)
            for one, scale in zip(targets, self.scales, strict=True)
        ]


def _plain_loss(owner: Any, *inputs: Any) -> Any:
    """Torchvision's own loss, for validation losses that are only looked at."""
    return type(owner).compute_loss(owner, *inputs)


class DenseWiring(Wiring):
    """RetinaNet, FCOS, SSD.

    Args:
        model: the detector.
        groups: what is weighed.
        owner: the object with the method `compute_loss`.
        terms: computes its loss per anchor.
    """

    def __init__(
        self, model: Any, groups: Groups, owner: Any, terms: Callable[..., dict[str, Tensor]]
    ) -> None:
        self.anchors: list[int] = model.anchor_generator.num_anchors_per_location()
        super().__init__(model, groups, {"dense": len(self.anchors)}, ("transform", "head"))
        self.owner = owner
        self.terms = terms
        self.counts: list[int] = []

    def _connect(self) -> None:
        self._handles.append(self.model.head.register_forward_pre_hook(self._note_levels))
        self._replace(self.owner, "compute_loss", self._compute_loss)

    def _note_levels(self, head: nn.Module, inputs: tuple[list[Tensor], ...]) -> None:
        features = inputs[0]
        self.counts = [
            a * f.shape[-2] * f.shape[-1] for a, f in zip(self.anchors, features, strict=True)
        ]

    def _compute_loss(
        self, targets: Any, outputs: Any, anchors: Any, matched: Any
    ) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            own: dict[str, Tensor] = _plain_loss(self.owner, targets, outputs, anchors, matched)
            return own
        step = Step(self.counts, targets, outputs, anchors, matched)
        terms = self.terms(self.owner, step)
        if not self.groups.options.positives:
            return self.attached.weigh("dense", sum_by_level(terms, self.counts))
        count = self.attached["dense"].num_groups
        objects = self._objects(targets) if self.groups.options.by_objects else None
        losses, positives = sum_by_group(terms, anchor_groups(step, objects, count), count)
        return self.attached.weigh("dense", losses, positives)


class RCNNWiring(Wiring):
    """Faster and Mask R-CNN.

    The RPN's levels are those of its anchors; a region's level is the one that it is pooled from.
    The RPN does not know classes, so it is left alone where classes are weighed.
    """

    def __init__(self, model: Any, groups: Groups) -> None:
        levels = {"roi": len(model.roi_heads.box_roi_pool.featmap_names)}
        if "class" not in groups.options.kind:
            levels = {"rpn": len(model.rpn.anchor_generator.num_anchors_per_location())} | levels
        places = ["transform", "rpn", "rpn.head", "roi_heads", "roi_heads.box_predictor"]
        places += ["roi_heads.mask_predictor"] if model.roi_heads.has_mask() else []
        super().__init__(model, groups, levels, places)
        self.counts: list[int] = []
        self.seen: dict[str, Any] = {}

    def _connect(self) -> None:
        heads = self.model.roi_heads
        if "rpn" in self.levels:
            self._replace(self.model.rpn, "compute_loss", self._rpn_loss)
            self._handles.append(self.model.rpn.head.register_forward_hook(self._note_levels))
            if self.groups.options.by_objects:
                self._replace(self.model.rpn, "assign_targets_to_anchors", self._assign)
        self._replace(heads, "select_training_samples", self._select)
        self._handles += [
            heads.box_predictor.register_forward_hook(self._note_boxes),
            heads.register_forward_pre_hook(self._note_targets, with_kwargs=True),
            heads.register_forward_hook(self._weigh_regions),
        ]
        if heads.has_mask():
            self._handles.append(heads.mask_predictor.register_forward_hook(self._note_masks))

    def _note_levels(self, head: nn.Module, inputs: Any, output: Any) -> None:
        self.counts = [level[0].numel() for level in output[0]]  # objectness [B, A, H, W] a level

    def _assign(self, anchors: Any, targets: Any) -> Any:
        assigned = RegionProposalNetwork.assign_targets_to_anchors(self.model.rpn, anchors, targets)
        self.seen["anchors"] = assigned[1]
        return assigned

    def _rpn_loss(
        self, objectness: Tensor, deltas: Tensor, labels: Any, wanted: Any
    ) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            plain: tuple[Tensor, Tensor] = _plain_loss(
                self.model.rpn, objectness, deltas, labels, wanted
            )
            return plain
        sample = rpn_terms(self.model.rpn, objectness, deltas, labels, wanted)
        ids = level_ids(self.counts, sample.rows.device)[sample.rows % sum(self.counts)]
        if self.groups.options.positives:
            count = self.attached["rpn"].num_groups
            ids = ids[: sample.positives]
            if self.groups.options.by_objects:
                ids = self._sizes(sample.rows[: sample.positives])
            ids = F.pad(ids, (0, len(sample.rows) - sample.positives), value=count)
        weighed = self._weigh("rpn", (sample.terms, ids))
        return weighed["loss_objectness"], weighed["loss_rpn_box_reg"]

    def _sizes(self, rows: Tensor) -> Tensor:
        """The groups of the anchors' objects, int64 [k]; `rows` are places among all B x A."""
        boxes = zip(self.seen.pop("anchors"), self.scales, strict=True)
        chosen = torch.cat([own * scale for own, scale in boxes])[rows]
        return self.groups.of_objects(chosen, torch.zeros_like(rows), 1.0)

    def _select(self, proposals: Any, targets: Any) -> Any:
        heads = self.model.roi_heads
        self.seen["sample"] = RoIHeads.select_training_samples(heads, proposals, targets)
        return self.seen["sample"]

    def _note_boxes(self, predictor: nn.Module, inputs: Any, output: Any) -> None:
        self.seen["boxes"] = output

    def _note_masks(self, predictor: nn.Module, inputs: Any, output: Any) -> None:
        self.seen["masks"] = output

    def _note_targets(self, heads: nn.Module, inputs: Any, named: Any) -> None:
        self.seen["targets"] = named.get("targets", inputs[3] if len(inputs) > 3 else None)

    def _weigh_regions(self, heads: Any, inputs: Any, output: Any) -> Any:
        seen, self.seen = self.seen, {}
        if not (heads.training and torch.is_grad_enabled()):
            return None
        found, losses = output
        regions, matched, labels, wanted = seen["sample"]
        label = torch.cat(labels)
        options = self.groups.options
        count = self.attached["roi"].num_groups
        objects = self._objects(seen["targets"]) if options.by_objects else None

        def groups(pool: Any, boxes: list[Tensor], matches: list[Tensor]) -> Tensor:
            if objects is None:
                level: Tensor = pool.map_levels(boxes)
                return level
            pairs = zip(objects, matches, strict=True)
            return torch.cat([groups_at(own, match, count) for own, match in pairs])

        logits, deltas = seen["boxes"]
        ids = groups(heads.box_roi_pool, regions, matched)
        if options.positives:
            ids = torch.where(label > 0, ids, count)
        rows = [(roi_terms(logits, deltas, label, torch.cat(wanted)), ids)]
        if heads.has_mask():
            positive = [torch.where(label > 0)[0] for label in labels]
            boxes = [region[at] for region, at in zip(regions, positive, strict=True)]
            objects_of = [match[at] for match, at in zip(matched, positive, strict=True)]
            targets = seen["targets"]
            masks = mask_terms(
                seen["masks"],
                boxes,
                [t["masks"] for t in targets],
                [t["labels"] for t in targets],
                objects_of,
            )
            rows.append((masks, groups(heads.mask_roi_pool, boxes, objects_of)))
        return found, losses | self._weigh("roi", *rows)

    def _weigh(self, name: str, *rows: tuple[Mapping[str, Tensor], Tensor]) -> dict[str, Tensor]:
        """Weigh a set's losses, given as rows and their groups; the first count positives."""
        count = self.attached[name].num_groups
        losses: dict[str, Tensor] = {}
        for terms, ids in rows:
            losses |= sum_rows(terms, ids, count + self.groups.options.positives)
        if not self.groups.options.positives:
            return self.attached.weigh(name, losses)
        ids = rows[0][1]
        ones = torch.ones_like(ids, dtype=torch.float32)
        return self.attached.weigh(name, losses, sum_rows({"": ones}, ids, count)[""])
