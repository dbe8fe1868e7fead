"""Weights by group in the loss of Ultralytics' YOLO models: detect, segment, pose and OBB.

The model's own criterion runs, unchanged, but what it adds up of boxes and classes is weighed by
group first (`ultralytics_terms`). Terms of masks, keypoints and angles stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel
from ultralytics.utils import LOGGER
from ultralytics.utils import loss as losses

from scalewise.integrations.attached import AttachedBalancer
from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.ultralytics_terms import (
    CLASS,
    POSITIVES,
    Branch,
    StepGroups,
    unknown,
    weighed,
)
from scalewise.weighting import Grouping, LossBalancer, by_level

SET = "dense"  # name of the only set of groups
TERMS = ("box_loss", "cls_loss", "dfl_loss")  # where the release does not name them itself
HEADS = {
    DetectionModel: ("Detect", "v10Detect"),
    SegmentationModel: ("Segment", "Segment26"),
    PoseModel: ("Pose", "Pose26"),
    OBBModel: ("OBB", "OBB26"),
}
PLACES = {  # of the terms in the criterion's total
    "v8DetectionLoss": (0, 1, 2),
    "v8SegmentationLoss": (0, 2, 3),
    "SegmentLoss26": (0, 2, 3),
    "v8PoseLoss": (0, 3, 4),
    "PoseLoss26": (0, 3, 4),
    "v8OBBLoss": (0, 1, 2),
}
PAIRS = ("E2ELoss", "E2EDetectLoss")  # a one-to-many and a one-to-one loss
TOLERANCE = 0.02  # of the check on the first step; bf16 sums are off by 0.004


class WeighedCriterion:
    """Stands in a model's `criterion` and weighs it by group in training steps.

    Without gradients or in evaluation mode it is the plain criterion, and copies and pickles of it
    are.

    Args:
        model: that has the criterion.
        criterion: the plain one.
        attached: with the balancer of the set "dense". It records the groups' losses summed over
            the terms, which are means over the batch: Ultralytics' factor of the batch size is
            taken out.
        grouping: of positives; None for whole levels.
    """

    def __init__(
        self, model: Any, criterion: Any, attached: AttachedBalancer, grouping: Grouping | None
    ) -> None:
        self.model = model
        self.criterion = criterion
        self.attached = attached
        self.grouping = grouping
        self._held: Tensor | None = None  # [n + 1]
        self._checked = False
        self._sums: Tensor | None = None  # [4, n + 1]: of the terms and positives
        self._weights: Tensor = torch.empty(0)  # [n + 1], the sum of each step's
        self._steps = 0

    @property
    def balancer(self) -> LossBalancer:
        """The balancer of the groups."""
        return self.attached[SET]

    @property
    def weights(self) -> Tensor:
        """Weights of the next step, float32 [n]."""
        return self.balancer.weights if self._held is None else self._held[:-1]

    def hold(self) -> None:
        """Keep today's weights until the next call, however many steps are recorded."""
        self._held = self._copied()

    def _copied(self) -> Tensor:
        """Today's weights [n + 1] and 1 for what is in no group, whatever is recorded later."""
        weights = self.balancer.weights
        return torch.cat((weights, weights.new_ones(1)))

    def __call__(self, preds: Any, batch: Any) -> tuple[Tensor, Any]:
        """The loss as Ultralytics returns it, weighted."""
        if not (self.model.training and torch.is_grad_enabled()):
            plain: tuple[Tensor, Any] = self.criterion(preds, batch)
            return plain
        groups = self._groups(preds)
        branches = [Branch(part, gain, groups) for part, gain in _parts(self.criterion)]
        with weighed(branches):
            total, items = self.criterion(preds, batch)
        sums = reduce(torch.add, [branch.sums() for branch in branches])  # [4, n + 1]
        terms, positives = sums[:POSITIVES], sums[POSITIVES]
        if not self._checked:
            places = PLACES[type(branches[0].part).__name__]
            own = total.detach()[list(places)] / len(branches[0].ids)
            _check(own, (terms * groups.weights).sum(-1))
            self._checked = True
        if self._sums is None:
            self._sums, self._weights = torch.zeros_like(sums), torch.zeros_like(groups.weights)
        self._sums += sums
        self._weights += groups.weights
        self._steps += 1
        if groups.whole:
            terms = terms[:, :-1]
        self.attached.group_losses.update(zip(self._names(), terms, strict=True))
        self.balancer(terms.sum(0), None if groups.whole else positives[:-1])
        return total, items

    def _groups(self, preds: Any) -> StepGroups:
        weights = self._copied() if self._held is None else self._held
        group_of = None if self.grouping is None else self.grouping.group_of
        levels = None if group_of is not None else _level_of_anchors(_counts(preds), weights.device)
        whole = self.grouping is None
        return StepGroups(weights, len(weights) - 1, group_of, levels, whole)

    def means(self) -> dict[str, float]:
        """Means over the steps since the last call, read from the device.

        Returns:
            By Ultralytics' name of the term, then "loss" (their sum), "weight" and "positives",
            each with the group: "loss/platelet". "loss/background" is that of what is in no group.
            Empty without a step.
        """
        if self._sums is None:
            return {}
        rows = (torch.cat((self._sums, self._weights[None])) / self._steps).cpu()
        self._sums, self._steps = None, 0
        *terms, positives, weights = rows
        losses = torch.stack(terms)
        named = dict(zip(self._names(), losses, strict=True))
        named |= {"loss": losses.sum(0), "weight": weights, "positives": positives}
        found = {
            f"{what}/{group}": value
            for what, values in named.items()
            for group, value in zip(self.balancer.names, values.tolist(), strict=False)
        }
        background = {} if self.grouping is None else {"loss/background": float(losses[CLASS, -1])}
        return found | background

    def _names(self) -> list[str]:
        part = _parts(self.criterion)[0][0]
        names: Sequence[str] | None = getattr(part, "loss_names", None)
        return [names[place] for place in PLACES[type(part).__name__]] if names else list(TERMS)

    def __getattr__(self, name: str) -> Any:
        """What else Ultralytics asks of its criterion, such as `update` of an end-to-end one."""
        return getattr(self.criterion, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.criterion, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return copy.copy, (self.criterion,)


@lru_cache(maxsize=64)  # sizes of multi-scale training
@torch.inference_mode(False)
def _level_of_anchors(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Int64 [A]."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device)


def _check(own: Tensor, ours: Tensor) -> None:
    """Compare the terms [3]; one read from the device, on the first step only."""
    for name, term, found in zip(TERMS, own.tolist(), ours.tolist(), strict=True):
        if abs(term - found) > TOLERANCE * abs(term):
            raise unknown(f"the groups' {name} add up to {found:.6g}, but it is {term:.6g}")


def _counts(preds: Any) -> tuple[int, ...]:
    """The number of anchors of each level."""
    raw = preds[1] if isinstance(preds, tuple) else preds
    if isinstance(raw, dict):
        raw = raw.get("one2many", raw)
    maps: list[Tensor] = raw["feats"] if isinstance(raw, dict) else raw
    return tuple(level.shape[-2] * level.shape[-1] for level in maps)


def _parts(criterion: Any) -> list[tuple[Any, float]]:
    """The criteria that know anchors, with their factors in the total today."""
    if type(criterion).__name__ not in PAIRS:
        return [(criterion, 1.0)]
    factors = [getattr(criterion, name, 1.0) for name in ("o2m", "o2o")]  # E2EDetectLoss has none
    return list(zip((criterion.one2many, criterion.one2one), factors, strict=True))


def attach_yolo(model: Any, options: Options) -> AttachedBalancer:
    """Weigh the losses of a YOLO model by group from now on.

    For training loops of your own; with Ultralytics' trainer use `balanced_trainer`.

    Args:
        model: a detection, segmentation, pose or OBB model, not wrapped, on its device, with
            `model.args` as the trainer sets it (`ultralytics.cfg.get_cfg()`) and the names of its
            classes in `model.names`.
        options: what is weighed and how; `accumulate` is the training steps of the model per
            optimizer step.

    Returns:
        The balancer of the set "dense" and the groups' losses by Ultralytics' names of the terms.
        It is no part of the model, whose checkpoints stay Ultralytics' own: save its `state_dict`
        beside them.

    Raises:
        AttachError: the model or its criterion is none of Ultralytics' own, or an option does not
            fit it.

    Examples:
        >>> from ultralytics.cfg import get_cfg  # doctest: +SKIP
        >>> model.args = get_cfg()  # doctest: +SKIP
        >>> attached = attach_yolo(model, Options(by="class", interval=50))  # doctest: +SKIP
    """
    criterion = _plain_criterion(model)
    grouping = None if options.kind == "level" else _grouping(model, options)
    balancer = options.make_balancer(_level_names(model) if grouping is None else grouping)
    if "class" in options.kind and any(
        getattr(part, "class_weights", None) is not None for part, _ in _parts(criterion)
    ):
        LOGGER.warning(
            f"scalewise: cls_pw weighs the classes as well, so that rare ones get both weights; "
            f"with by={options.kind!r} leave cls_pw at 0"
        )
    attached = AttachedBalancer({SET: balancer.to(next(model.parameters()).device)})
    attached.wiring = model.criterion = WeighedCriterion(model, criterion, attached, grouping)
    return attached


def detach_yolo(model: Any) -> None:
    """Undo `attach_yolo`; without effect on a model that has no weights."""
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
            f"{type(model).__name__} with head {head}: only plain YOLO models for detection, "
            "segmentation, pose and OBB (v5u, v8, v10, 11, 12, 26) have losses whose anchors are "
            "assigned to objects in a way known here; prompts and RT-DETR's queries are not"
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
        or any(type(part) not in parts for part, _ in _parts(criterion))
        or any(type(part.bbox_loss) not in boxes for part, _ in _parts(criterion))
        or any(type(part.bce) is not nn.BCEWithLogitsLoss for part, _ in _parts(criterion))
        or any(part.bce.reduction != "none" for part, _ in _parts(criterion))
    ):
        raise AttachError(
            f"the model's criterion {type(criterion).__name__} is not Ultralytics' own: its terms "
            "cannot be told apart; call a LossBalancer in it instead"
        )
    return criterion
