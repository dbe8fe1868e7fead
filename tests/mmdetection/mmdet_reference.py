"""A slow and simple reference for the weighted gradients of MMDetection's detectors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead, FoveaHead
from mmdet_configs import EDGES
from mmdet_one_stage import CLASSES
from mmengine.structures import InstanceData
from torch import Tensor, nn


def weigh(model: Any, weights: Mapping[str, Tensor], by: str) -> None:
    """Weigh the gradients of a plain model.

    The head's own loss is computed once for each group, with the predictions of all other anchors
    detached. The sum of these losses, each times its weight, has the weighted gradients; its value
    stays that of the plain loss. The loss of RepPoints has a parameter for all levels, and the loss
    of DDOD counts its calls. So for their whole levels, the gradient of each entry of the lists of
    losses is multiplied instead.
    """
    for name, own in weights.items():
        if name == "roi":
            _weigh_regions(model.roi_head, own, by)
            continue
        head = model.rpn_head if name == "rpn" else model.bbox_head
        if by == "level" and type(head).__name__ in ("RepPointsHead", "DDODHead"):
            _weigh_entries(head, own)
        else:
            _weigh_anchors(head, own, by)


def _weigh_entries(head: Any, own: Tensor) -> None:
    plain = head.loss_by_feat

    def by_entry(*args: Any, **named: Any) -> dict[str, Any]:
        losses: dict[str, Any] = plain(*args, **named)
        for entries in losses.values():
            for entry, weight in zip(entries, own, strict=True):
                entry.register_hook(lambda g, w=weight: (g.float() * w).to(g.dtype))
        return losses

    head.loss_by_feat = by_entry


def _weigh_anchors(head: Any, own: Tensor, by: str) -> None:
    plain = head.loss_by_feat

    def by_group(*args: Any, **named: Any) -> dict[str, Any]:
        kinds = [part for part in args if isinstance(part, (list, tuple)) and _is_maps(part)]
        others = args[len(kinds) :]
        state = torch.get_rng_state()
        groups = groups_of_anchors(head, plain, args, len(own), by)
        result: dict[str, Any] = {}
        for group, weight in enumerate([*own.tolist(), 1.0]):
            torch.set_rng_state(state)  # the same sample for every group
            alone = [
                [_only(one, level == group) for one, level in zip(maps, levels, strict=True)]
                for maps, levels in zip(kinds, groups, strict=False)
            ]
            forget_counts(head)
            for key, value in plain(*alone, *others, **named).items():
                entries = value if isinstance(value, list) else [value]
                total = sum(entry.mean() for entry in entries)
                if group == 0:
                    result[key] = total.detach()
                if "loss" in key:
                    result[key] = result[key] + weight * (total - total.detach())
        return result

    head.loss_by_feat = by_group


def spread(mask: Tensor, maps: Tensor) -> Tensor:
    """Expand a mask of anchors [B, k, H, W] to their predictions [B, k * C, H, W]."""
    return mask.repeat_interleave(maps.shape[1] // mask.shape[1], 1)


def _only(maps: Any, mask: Tensor) -> Any:
    """Predictions (or pairs of them), with gradients only inside a mask of anchors."""
    if not isinstance(maps, Tensor):
        return tuple(_only(one, mask) for one in maps)
    return torch.where(spread(mask, maps), maps, maps.detach())


def group_of(box: Tensor, label: int, scale: tuple[float, float], by: str) -> int:
    """The group of one object."""
    width, height = ((box[2:] - box[:2]) / torch.tensor(scale)).tolist()
    side = float(width * height) ** 0.5
    size = sum(side >= edge for edge in EDGES)
    groups: dict[str, int] = {"class": label, "size": size, "size*class": size * CLASSES + label}
    return groups[by]


def groups_of_anchors(head: Any, plain: Any, args: Any, none: int, by: str) -> list[list[Tensor]]:
    """Groups [B, k, H, W] of anchors, by kind of prediction and level; `none` means no group."""
    maps = [one if isinstance(one, Tensor) else one[0] for one in args[0]]
    if by == "level":
        return [[torch.full((len(m), 1, *m.shape[-2:]), at) for at, m in enumerate(maps)]] * len(
            args
        )
    priors = head.prior_generator.num_base_priors
    objects, metas = next(
        (args[at], args[at + 1]) for at, arg in enumerate(args) if isinstance(arg[0], InstanceData)
    )
    counts = [k * m.shape[-2] * m.shape[-1] for m, k in zip(maps, priors, strict=True)]
    assigned = _assigned_objects(head, plain, args, objects, maps)
    found = []
    for one in assigned:
        ids = torch.full((len(objects), sum(counts)), none)
        for image, gt_inds in enumerate(one):
            for anchor in (gt_inds > 0).nonzero().flatten().tolist():
                if by == "level-positives":
                    level = sum(anchor >= sum(counts[: at + 1]) for at in range(len(counts)))
                    ids[image, anchor] = level
                    continue
                mine, at = objects[image], int(gt_inds[anchor]) - 1
                scale = metas[image]["scale_factor"]
                ids[image, anchor] = group_of(mine.bboxes[at], int(mine.labels[at]), scale, by)
        parts = zip(torch.split(ids, counts, 1), maps, priors, strict=True)
        found.append([p.reshape(len(p), *m.shape[-2:], k).permute(0, 3, 1, 2) for p, m, k in parts])
    # DDOD assigns once for classes and once for boxes and IoUs
    return [found[0], found[-1], found[-1]]


def _assigned_objects(
    head: Any, plain: Any, args: Any, objects: Any, maps: list[Tensor]
) -> list[list[Tensor]]:
    """Number (from 1) of each anchor's object [A], by assignment and image; 0 means none."""
    if isinstance(head, (FCOSHead, FoveaHead)) and not hasattr(head, "assigner"):
        # these heads ignore labels when they assign, so number the objects by labels
        numbered = [InstanceData(bboxes=o.bboxes, labels=torch.arange(len(o))) for o in objects]
        sizes = [m.shape[-2:] for m in maps]
        priors = head.prior_generator.grid_priors(sizes, device="cpu")
        classes, head.num_classes = head.num_classes, -2
        fovea = isinstance(head, FoveaHead)
        labels = head.get_targets(*((numbered, sizes, priors) if fovea else (priors, numbered)))[0]
        head.num_classes = classes
        if fovea:
            labels = torch.split(labels, [len(objects) * len(own) for own in priors])
        by_image = [own.reshape(len(objects), -1) for own in labels]
        return [list(torch.cat(by_image, 1).clamp(min=-1) + 1)]
    seen: list[list[Tensor]] = []
    assigners = {id(own): own for name, own in vars(head).items() if name.endswith("assigner")}
    for owner in assigners.values():
        mine: list[Tensor] = []
        owner.assign = partial(_noting, owner.assign, mine)
        seen.append(mine)
    with torch.no_grad():
        forget_counts(head)
        plain(*args)
    for owner in assigners.values():
        del owner.assign
    anchors = sum(m[0, 0].numel() for m in maps)
    for mine in seen:
        for image, own in enumerate(objects):
            if mine and len(mine) < len(objects) and not len(own):  # YOLOX skips empty images
                mine.insert(image, torch.zeros(anchors, dtype=torch.long))
    empty = [torch.zeros(anchors, dtype=torch.long)] * len(objects)
    return [mine for mine in seen if mine] or [empty]


def _noting(assign: Any, seen: list[Tensor], *args: Any, **named: Any) -> Any:
    result = assign(*args, **named)
    seen.append(result.gt_inds.clone())
    return result


def _weigh_regions(roi_head: Any, own: Tensor, by: str) -> None:
    images: list[Any] = []
    loss = roi_head.loss

    def note(x: Any, proposals: Any, samples: Any) -> Any:
        images[:] = samples
        return loss(x, proposals, samples)

    roi_head.loss = note
    heads = roi_head.bbox_head
    for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
        head.loss_and_target = partial(_region_losses, head.loss_and_target, images, own, by)
    heads = getattr(roi_head, "mask_head", ())
    for head in heads if isinstance(heads, nn.ModuleList | tuple) else [heads]:
        head.loss_and_target = partial(_mask_losses, head.loss_and_target, images, own, by)


def _region_losses(plain: Any, images: list[Any], own: Tensor, by: str, **named: Any) -> Any:
    groups = []
    for sampled, image in zip(named["sampling_results"], images, strict=True):
        gt = image.gt_instances
        for at in sampled.pos_assigned_gt_inds.tolist():
            groups.append(group_of(gt.bboxes[at], int(gt.labels[at]), image.scale_factor, by))
        groups += [len(own)] * len(sampled.neg_priors)
    scores, boxes = named.pop("cls_score"), named.pop("bbox_pred")
    result = plain(cls_score=scores.detach(), bbox_pred=boxes.detach(), **named)
    for group, weight in enumerate([*own.tolist(), 1.0]):
        mask = (torch.tensor(groups) == group)[:, None]
        alone = (torch.where(mask, one, one.detach()) for one in (scores, boxes))
        losses = plain(**dict(zip(("cls_score", "bbox_pred"), alone, strict=True)), **named)
        for key, value in losses["loss_bbox"].items():
            if "loss" in key:
                change = weight * (value - value.detach())
                result["loss_bbox"][key] = result["loss_bbox"][key] + change
    return result


def _mask_losses(plain: Any, images: list[Any], own: Tensor, by: str, **named: Any) -> Any:
    """The loss of all masks, with gradients for one region at a time."""
    weights = []
    for sampled, image in zip(named["sampling_results"], images, strict=True):
        gt = image.gt_instances
        for at in sampled.pos_assigned_gt_inds.tolist():
            group = group_of(gt.bboxes[at], int(gt.labels[at]), image.scale_factor, by)
            weights.append(float(own[group]))
    masks = named.pop("mask_preds")
    result = plain(mask_preds=masks.detach() if weights else masks, **named)
    for region, weight in enumerate(weights):
        alone = torch.cat(
            (masks.detach()[:region], masks[region:][:1], masks.detach()[region + 1 :])
        )
        value = plain(mask_preds=alone, **named)["loss_mask"]["loss_mask"]
        change = weight * (value - value.detach())
        result["loss_mask"]["loss_mask"] = result["loss_mask"]["loss_mask"] + change
    return result


def forget_counts(head: Any) -> None:
    """Set DDOD's counts of positives by level to 0; they change its loss and are in no state."""
    counts = getattr(head, "cls_num_pos_samples_per_level", None)
    if counts:
        counts[:] = [0.0] * len(counts)


def _is_maps(part: Any) -> bool:
    first = part[0]  # SABL's is a pair
    return isinstance(first, Tensor) or (isinstance(first, tuple) and _is_maps(first))
