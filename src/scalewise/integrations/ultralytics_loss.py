"""Weights by group in the loss of Ultralytics' YOLO models: detect, segment, pose and OBB."""

from __future__ import annotations

from typing import Any

from torch import nn
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel
from ultralytics.utils import LOGGER
from ultralytics.utils import loss as losses

from scalewise.integrations.attached import AttachedBalancer
from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.ultralytics_criterion import (
    PAIRS,
    PLACES,
    SET,
    WeighedCriterion,
    parts_of,
)
from scalewise.weighting import Grouping, by_level

HEADS = {
    DetectionModel: ("Detect", "v10Detect"),
    SegmentationModel: ("Segment", "Segment26"),
    PoseModel: ("Pose", "Pose26"),
    OBBModel: ("OBB", "OBB26"),
}


def attach_yolo(model: Any, options: Options) -> AttachedBalancer:
    """Weigh the losses of a YOLO model by group from now on.

    For training loops of your own; with Ultralytics' trainer use `balanced_trainer`.

    Args:
        model: a detection, segmentation, pose or OBB model, not wrapped, on its device, with
            `model.args` as the trainer sets it (`ultralytics.cfg.get_cfg()`) and the names of its
            classes in `model.names`.
        options: what is weighed and how; `accumulate` is the number of forward passes per optimizer
            step.

    Returns:
        The balancer of the set "dense" and the groups' losses under Ultralytics' names of the
        terms. It is not part of the model, whose checkpoints stay as Ultralytics makes them: save
        its `state_dict` beside them.

    Raises:
        AttachError: the model or its criterion is not Ultralytics' own, or an option does not fit
            it.

    Examples:
        >>> from ultralytics.cfg import get_cfg  # doctest: +SKIP
        >>> model.args = get_cfg()  # doctest: +SKIP
        >>> attached = attach_yolo(model, Options(by="class", interval=50))  # doctest: +SKIP
    """
    criterion = _plain_criterion(model)
    grouping = None if options.kind == "level" else _grouping(model, options)
    balancer = options.make_balancer(_level_names(model) if grouping is None else grouping)
    if "class" in options.kind and any(
        getattr(part, "class_weights", None) is not None for part, _ in parts_of(criterion)
    ):
        LOGGER.warning(
            f"scalewise: cls_pw weighs the classes as well, so that rare ones get both weights; "
            f"with by={options.kind!r} leave cls_pw at 0"
        )
    attached = AttachedBalancer({SET: balancer.to(next(model.parameters()).device)})
    attached.wiring = model.criterion = WeighedCriterion(model, criterion, attached, grouping)
    return attached


def detach_yolo(model: Any) -> None:
    """Undo `attach_yolo`; nothing happens to a model without weights."""
    weighed = getattr(model, "criterion", None)
    if isinstance(weighed, WeighedCriterion):
        model.criterion = weighed.criterion


def _grouping(model: Any, options: Options) -> Grouping:
    if not options.by_objects:
        return by_level(_level_names(model))
    count = int(model.model[-1].nc)
    names = getattr(model, "names", None) or []
    own = [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    if len(own) != count or own == [str(label) for label in range(count)]:
        own = [f"class{label}" for label in range(count)]
    return options.group_objects(own)


def _level_names(model: Any) -> list[str]:
    strides = [int(stride) for stride in model.stride.tolist()]
    if len(set(strides)) == len(strides):
        return [f"stride{stride}" for stride in strides]
    return [f"level{level}" for level in range(len(strides))]


def _plain_criterion(model: Any) -> Any:
    """The model's own criterion.

    Raises:
        AttachError: it is not known, or weighed already.
    """
    head = type(model.model[-1]).__name__ if isinstance(model, DetectionModel) else "none"
    if head not in HEADS.get(type(model), ()):
        raise AttachError(
            f"{type(model).__name__} with head {head} is not supported: how anchors get their "
            "objects is known only in plain YOLO models for detection, segmentation, pose and OBB "
            "(v5u, v8, v10, 11, 12, 26), not in those with prompts nor in RT-DETR"
        )
    if not hasattr(getattr(model, "args", None), "box"):
        raise AttachError(
            "model.args lacks the loss gains; set model.args = ultralytics.cfg.get_cfg()"
        )
    criterion = getattr(model, "criterion", None) or model.init_criterion()
    if isinstance(criterion, WeighedCriterion):
        raise AttachError("this model has weights already; detach it first")
    pairs, parts, boxes = (
        [getattr(losses, name) for name in names if hasattr(losses, name)]
        for names in (PAIRS, PLACES, ("BboxLoss", "RotatedBboxLoss"))
    )
    if (
        "loss" in vars(model)
        or type(criterion) not in (*parts, *pairs)
        or any(type(part) not in parts for part, _ in parts_of(criterion))
        or any(type(part.bbox_loss) not in boxes for part, _ in parts_of(criterion))
        or any(type(part.bce) is not nn.BCEWithLogitsLoss for part, _ in parts_of(criterion))
        or any(part.bce.reduction != "none" for part, _ in parts_of(criterion))
    ):
        raise AttachError(
            f"the model's criterion {type(criterion).__name__} is not Ultralytics' own: its terms "
            "cannot be told apart; call a LossBalancer in it instead"
        )
    return criterion
