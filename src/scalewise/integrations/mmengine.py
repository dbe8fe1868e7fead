"""Weights on the losses of MMDetection's detectors, and of any mmengine model with losses by level.

    custom_imports = dict(imports=["scalewise.integrations.mmengine"])
    custom_hooks = [dict(type="ScalewiseHook", by="class")]

Weights of positives act on the gradients of the head's predictions. Weights of lists with one loss
per level act where `parse_losses` adds the lists up. Equal weights change no bit in either case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from scalewise.integrations.mmengine_groups import DenseGroups
from scalewise.integrations.mmengine_heads import (
    count_levels,
    find_anchors,
    find_dense,
    list_names,
    of_rpn,
)
from scalewise.integrations.mmengine_losses import ListLosses, Part
from scalewise.integrations.mmengine_rois import RoIGroups
from scalewise.integrations.mmengine_weights import Groups, GroupWeights, State, numbered_levels
from scalewise.integrations.options import AttachError, Options
from scalewise.weighting import SchemeLike, by_level
from scalewise.weighting.groups import COCO_EDGES

if TYPE_CHECKING:
    Hook = object
else:
    from mmengine.hooks import Hook

KEY = "scalewise"  # of the weighting state in a checkpoint


def attach_mmdet(model: nn.Module, options: Options, losses: Sequence[str] = ()) -> GroupWeights:
    """Weigh the losses of an mmengine model from now on, in a training loop of your own.

    With mmengine's Runner use `ScalewiseHook`, which does this.

    Args:
        model: an mmengine `BaseModel`; wrapped in data parallelism or not.
        options: what is weighed, and how.
        losses: names of the losses that are lists with one entry per level, for a model that is not
            a known MMDetection detector. Then only these are weighed, by level.

    Returns:
        The weights. They are not part of the model, so save their `state_dict()` yourself.

    Raises:
        AttachError: the model's losses are not known, it has been attached before, or the options
            do not fit it. The model is left as it was.

    Examples:
        >>> attached = attach_mmdet(model, Options(by="size"))  # doctest: +SKIP
        >>> log = model.train_step(data, optim_wrapper)  # doctest: +SKIP
        >>> attached.weights["dense"]  # of small, medium and large objects # doctest: +SKIP
        tensor([1., 1., 1.])
    """
    inner: Any = model.module if is_model_wrapper(model) else model
    if not hasattr(inner, "parse_losses"):
        raise AttachError(
            f"{type(inner).__name__} has no parse_losses: it is not an mmengine BaseModel"
        )
    if "parse_losses" in vars(inner):
        raise AttachError(
            f"parse_losses of this {type(inner).__name__} has been replaced already, by weights "
            "(detach them first) or by something else"
        )
    if isinstance(losses, str):
        raise AttachError(f"losses={losses!r} is one string; write losses=({losses!r},)")
    if not losses:
        return GroupWeights(inner, _parts(inner, options), options)
    if options.by not in (None, "level"):
        raise AttachError(
            f"losses= names lists of whole levels, which by={options.by!r} cannot weigh; leave by "
            "out"
        )
    options = dataclasses.replace(options, by="level")
    return GroupWeights(inner, {"named": (ListLosses(losses), None)}, options)


def detach_mmdet(model: nn.Module) -> None:
    """Undo `attach_mmdet`; nothing happens to a model that was never attached."""
    inner: Any = model.module if is_model_wrapper(model) else model
    parse = vars(inner).get("parse_losses")  # a partial of a bound method, if it is ours
    attached = getattr(getattr(parse, "func", None), "__self__", None)
    if isinstance(attached, GroupWeights):
        attached.detach()


def _parts(model: Any, options: Options) -> dict[str, tuple[Part, Groups]]:
    """The sets of groups of a detector.

    Proposals have no class, so by class and by size*class only the second stage is weighed. By
    level and by level-positives only the first stage is.
    """
    roi_head = getattr(model, "roi_head", None)
    classed = "class" in options.kind
    if options.by_objects and roi_head is not None:
        if not getattr(roi_head, "with_bbox", False):
            raise AttachError(f"{type(roi_head).__name__} has no box head, so nothing was changed")
        second = _roi_part(model, roi_head, options)
        if classed or getattr(model, "rpn_head", None) is None:
            return {"roi": second}
        return {"rpn": _dense_part(model, model.rpn_head, options, rpn=True), "roi": second}
    name, head = find_dense(model)
    if options.kind == "level" and (names := list_names(head)) is not None:
        names = tuple(of_rpn(own) for own in names) if name == "rpn" else names
        return {name: (ListLosses(names), numbered_levels(count_levels(head)))}
    return {name: _dense_part(model, head, options, rpn=name == "rpn")}


def _dense_part(model: Any, head: Any, options: Options, rpn: bool) -> tuple[Part, Groups]:
    place = find_anchors(head)
    names = numbered_levels(count_levels(head))
    if not options.by_objects:
        groups: Groups = by_level(names) if options.positives else names
        return DenseGroups(head, place, options, None, rpn), groups
    if "class" in options.kind and type(head).__name__.endswith("RPNHead"):
        raise AttachError(
            f"{type(head).__name__} makes proposals, which have no class; nothing was changed. "
            "Choose by='size' or by='level-positives'"
        )
    # proposals have no class, so the number of classes does not matter
    grouping = options.group_objects((rpn and options.classes) or _classes(model, head))
    return DenseGroups(head, place, options, grouping, rpn), grouping


def _roi_part(model: Any, roi_head: Any, options: Options) -> tuple[Part, Groups]:
    heads = roi_head.bbox_head
    first = heads[0] if isinstance(heads, nn.ModuleList) else heads
    grouping = options.group_objects(_classes(model, first))
    return RoIGroups(roi_head, grouping), grouping


def _classes(model: Any, head: Any) -> tuple[str, ...]:
    """The model's classes: their names in its data set, if it knows them, else "class0", ..."""
    count = int(head.num_classes)
    known = (getattr(model, "dataset_meta", None) or {}).get("classes") or ()
    return tuple(known) if len(known) == count else tuple(f"class{i}" for i in range(count))


class ScalewiseHook(Hook):
    """Weighs the losses of the model that the Runner trains.

    Logs `<set>/loss_<group>` (unweighted) and `<set>/weight_<group>` beside the Runner's scalars,
    and keeps its state in the Runner's checkpoints, from which `resume=True` goes on. Accumulation
    is read from the optimizer wrapper, and the names of the classes from the training set.

    Args:
        by: as for `Options`: "class", "size", "size*class", "level-positives" or "level".
        scheme: as for `LossBalancer`; None takes the default for `by`.
        interval: optimizer steps between two updates of the weights, or "auto".
        normalize: how the weights are scaled; see `LossBalancer`.
        seed: seed of the scheme's random numbers.
        size_edges: sides of objects that separate the sizes, ascending, in pixels of the original
            image.
        classes: names of the classes; empty takes those of the training set.
        losses: as for `attach_mmdet`.

    Raises:
        AttachError: an argument is out of range.

    Examples:
        >>> from mmengine.registry import HOOKS
        >>> from scalewise.integrations.mmengine import ScalewiseHook
        >>> hook = HOOKS.build(dict(type="ScalewiseHook", by="class"))  # in a config: custom_hooks
        >>> isinstance(hook, ScalewiseHook)
        True
    """

    priority = "NORMAL"

    def __init__(
        self,
        by: str | None = None,
        scheme: SchemeLike | None = None,
        interval: int | Literal["auto"] = "auto",
        normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto",
        seed: int = 0,
        size_edges: Sequence[float] = COCO_EDGES,
        classes: Sequence[str] = (),
        losses: Sequence[str] = (),
    ) -> None:
        if losses and by is None:
            by = "level"
        self._options = Options(
            by, scheme, interval, normalize, seed=seed, size_edges=size_edges, classes=classes
        )
        self._losses = losses
        self._state: State | None = None
        self.attached: GroupWeights | None = None

    def before_train(self, runner: Any) -> None:
        """Attach, and go on from the state of a resumed checkpoint."""
        meta = getattr(runner.train_dataloader.dataset, "metainfo", None) or {}
        options = dataclasses.replace(
            self._options,
            accumulate=getattr(runner.optim_wrapper, "_accumulative_counts", 1),
            classes=self._options.classes or tuple(meta.get("classes") or ()),
        )
        attached = attach_mmdet(runner.model, options, self._losses)
        if self._state is not None:
            try:
                attached.load_state_dict(self._state)
            except AttachError:
                attached.detach()
                raise
            self._state = None
        self.attached = attached

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the last losses and weights of the groups."""
        if self.attached is None:
            return
        for name in self.attached.names:
            balancer = self.attached[name]
            table = torch.stack((self.attached.group_totals(name), balancer.weights)).tolist()
            for kind, row in zip(("loss", "weight"), table, strict=True):
                for group, value in zip(balancer.names, row, strict=True):
                    runner.message_hub.update_scalar(f"train/{name}/{kind}_{group}", value)

    def after_train(self, runner: Any) -> None:
        """Give the model back as it was; checkpoints still get the state."""
        if self.attached is not None:
            self.attached.detach()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the weighting state, plain tensors."""
        if self.attached is not None:
            checkpoint[KEY] = self.attached.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the state for `before_train` if the run is resumed, not only initialised."""
        if not runner._resume:
            return
        if KEY not in checkpoint:
            runner.logger.warning(
                "the checkpoint was saved without ScalewiseHook: the weights start anew"
            )
        self._state = checkpoint.get(KEY)


HOOKS.register_module(module=ScalewiseHook)
