"""Level weights in the loss of Ultralytics' YOLO detection models.

The model's own criterion runs, unchanged, but what it adds up over the anchors is weighed by level
first. The level losses are sums of the same values, so that they cost no pass of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import loss as losses

from scalewise.default import LEVEL_SCHEME
from scalewise.integrations.attached import AttachError, own_scheme
from scalewise.weighting import LossBalancer, SchemeLike

TERMS = ("box_loss", "cls_loss", "dfl_loss")  # where the release does not name them itself
HEADS = ("Detect", "v10Detect")
PAIRS = ("E2ELoss", "E2EDetectLoss")  # a one-to-many and a one-to-one loss
TOLERANCE = 0.02  # of the check on the first step; bf16 sums are off by 0.004


class LevelCriterion:
    """Stands in a model's `criterion` and weighs it by level in training steps.

    Without gradients (validation) it is the plain criterion, and copies and pickles of it are.

    Attributes:
        balancer: its weights apply, and it records the level losses summed over the terms, which
            are means over the batch: Ultralytics' factor of the batch size is taken out.
    """

    def __init__(self, criterion: Any, balancer: LossBalancer) -> None:
        self.criterion = criterion
        self.balancer = balancer
        self._terms = torch.empty(0)  # level losses [3, n] of the last step
        self._held: Tensor | None = None
        self._checked = False
        self._sums: Tensor | None = None
        self._steps = 0

    @property
    def weights(self) -> Tensor:
        """Weights of the next step, float32 [n]."""
        return self.balancer.weights if self._held is None else self._held

    @property
    def level_losses(self) -> dict[str, Tensor]:
        """Of the last step, unweighted, detached: float32 [n] by Ultralytics' name of the term."""
        return dict(zip(self._names(), self._terms, strict=False))

    def hold(self) -> None:
        """Keep today's weights until the next call, however many steps are recorded."""
        self._held = self.balancer.weights.clone()

    def __call__(self, preds: Any, batch: Any) -> tuple[Tensor, Any]:
        """The loss as Ultralytics returns it, weighted."""
        if not torch.is_grad_enabled():
            plain: tuple[Tensor, Any] = self.criterion(preds, batch)
            return plain
        maps = _feature_maps(preds)
        weights = self.weights.clone()
        counts = tuple(level.shape[-2] * level.shape[-1] for level in maps)
        anchors = _level_of_anchors(counts, weights.device)
        branches = [_Branch(part, gain, anchors, weights) for part, gain in _parts(self.criterion)]
        with _weighed(branches):
            total, items = self.criterion(preds, batch)
        levels = branches[0].losses()
        for branch in branches[1:]:
            levels = levels + branch.losses()
        if not self._checked:
            _check(total.detach() / len(maps[0]), (levels * weights).sum(-1))
            self._checked = True
        self._terms = levels
        rows = torch.cat((levels, weights[None]))
        self._sums = rows if self._sums is None else self._sums.add_(rows)
        self._steps += 1
        self.balancer(levels.sum(0))
        return total, items

    def means(self) -> dict[str, list[float]]:
        """Mean level losses and weights over the steps since the last call, read from the device.

        Returns:
            One number per level by Ultralytics' name of the term, then "loss", their sum, and
            "weight". Empty without a step.
        """
        if self._sums is None:
            return {}
        rows = (self._sums / self._steps).cpu()
        self._sums, self._steps = None, 0
        *terms, weight = rows.tolist()
        return {
            **dict(zip(self._names(), terms, strict=True)),
            "loss": rows[:-1].sum(0).tolist(),
            "weight": weight,
        }

    def _names(self) -> Sequence[str]:
        names: Sequence[str] = getattr(_parts(self.criterion)[0][0], "loss_names", TERMS)
        return names

    def __getattr__(self, name: str) -> Any:
        """What else Ultralytics asks of its criterion, such as `update` of an end-to-end one."""
        return getattr(self.criterion, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.criterion, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return copy.copy, (self.criterion,)


class _Branch:
    """One `v8DetectionLoss` during one step.

    Args:
        part: the criterion.
        gain: its factor in the total.
        anchors: int64 [A], the level of each anchor.
        weights: [n]
    """

    def __init__(self, part: Any, gain: float, anchors: Tensor, weights: Tensor) -> None:
        self.part, self.gain, self.anchors, self.weights = part, gain, anchors, weights[:, None]
        self.bce, self.bbox_loss = part.bce, part.bbox_loss
        # what Ultralytics leaves at 0 and 1 in a batch without objects
        self.box = self.scores = self.distribution = torch.zeros_like(weights)  # [n]
        self.divisor: Tensor | int = 1

    def weigh_scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """In place of `bce`: [B, A, C]."""
        loss: Tensor = self.bce(logits, targets)
        by_class = getattr(self.part, "class_weights", None)
        own = loss.detach() if by_class is None else loss.detach() * by_class
        self.scores = _by_level(
            own.sum(-1, dtype=torch.float32).sum(0)[:, None], self.anchors, len(self.weights)
        )
        return (loss * self.weights.index_select(0, self.anchors)).to(loss.dtype)

    def weigh_boxes(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """In place of `bbox_loss`, whose every sum over anchors has the scores in it."""
        self.divisor = inputs[5]
        scores = inputs[4].as_subclass(_Scores)
        scores.sums = sums = _LevelSums(self.anchors, self.weights)
        found: tuple[Tensor, Tensor] = self.bbox_loss(*inputs[:4], scores, *inputs[5:])
        if len(sums.levels) != 2:
            raise _unknown(f"its boxes are added up {len(sums.levels)} times instead of twice")
        self.box, self.distribution = sums.levels
        return found

    def losses(self) -> Tensor:
        """Unweighted [3, n], means over the batch: box, class, distribution."""
        terms = torch.stack((self.box, self.scores, self.distribution))
        own = self.part.hyp
        gains = tuple(self.gain * float(gain) for gain in (own.box, own.cls, own.dfl))
        return terms * _column(gains, terms.device) / self.divisor


class _LevelSums:
    """Weighs what `BboxLoss` adds up, a value per object's anchor, and adds it up by level too.

    Attributes:
        levels: for each sum the unweighted sums by level, [n].
    """

    def __init__(self, anchors: Tensor, weights: Tensor) -> None:
        self.levels: list[Tensor] = []
        self._anchors, self._weights = anchors, weights  # [A], [n, 1]
        self._chosen: Tensor | None = None  # int64 [N], the levels of the objects' anchors

    def choose(self, batch: int, index: Any) -> None:
        """Learn which anchors have objects; asking again would read from the device once more."""
        self._chosen = self._anchors.expand(batch, -1)[index]

    def add_up(self, values: Tensor) -> Tensor:
        """The weighted sum."""
        if self._chosen is None or values.shape != (len(self._chosen), 1):
            raise _unknown(f"it adds up box losses of shape {tuple(values.shape)}")
        self.levels.append(_by_level(values.detach(), self._chosen, len(self._weights)))
        return (values * self._weights.index_select(0, self._chosen)).sum().to(values.dtype)


class _Scores(Tensor):
    """Target scores, and what is computed from them, up to a sum over anchors."""

    sums: _LevelSums

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sums = next((value.sums for value in args if isinstance(value, _Scores)), None)
        if sums is None:
            raise _unknown(f"its boxes use the target scores in {func.__name__}")
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.sum and len(args) == 1 and not kwargs:
                return sums.add_up(args[0].as_subclass(Tensor))
            if func is Tensor.__getitem__:
                sums.choose(len(args[0]), args[1])
            found = func(*args, **(kwargs or {}))
        if not isinstance(found, Tensor):
            return found
        scores = found.as_subclass(_Scores)
        scores.sums = sums
        return scores


def _by_level(values: Tensor, anchors: Tensor, levels: int) -> Tensor:
    """Float32 sums [n] of [A, 1]; what is not finite stays in its level."""
    members = _each(levels, values.device).index_select(0, anchors)  # bool [A, n]
    return torch.where(members, values, 0).sum(0, dtype=torch.float32)


@lru_cache
@torch.inference_mode(False)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)[:, None]


@lru_cache
@torch.inference_mode(False)
def _each(levels: int, device: torch.device) -> Tensor:
    return torch.eye(levels, dtype=torch.bool, device=device)


@lru_cache(maxsize=64)  # sizes of multi-scale training
@torch.inference_mode(False)
def _level_of_anchors(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Int64 [A]."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device)


@contextmanager
def _weighed(branches: Sequence[_Branch]) -> Iterator[None]:
    """The criterion sees the weighing stand-ins inside of the block only."""
    for branch in branches:
        branch.part.bce, branch.part.bbox_loss = branch.weigh_scores, branch.weigh_boxes
    try:
        yield
    finally:
        for branch in branches:
            branch.part.bce, branch.part.bbox_loss = branch.bce, branch.bbox_loss


def _check(own: Tensor, ours: Tensor) -> None:
    """Compare the terms [3]; one read from the device, on the first step only."""
    for name, term, found in zip(TERMS, own.tolist(), ours.tolist(), strict=True):
        if abs(term - found) > TOLERANCE * abs(term):
            raise _unknown(f"the levels' {name} add up to {found:.6g}, but it is {term:.6g}")


def _unknown(what: str) -> AttachError:
    return AttachError(
        f"{what}: this release of Ultralytics computes its loss in another way; use a tested one "
        "(docs/ultralytics.md)"
    )


def _feature_maps(preds: Any) -> list[Tensor]:
    """The head's maps [B, *, h, w], which only give the sizes."""
    raw = preds[1] if isinstance(preds, tuple) else preds
    if isinstance(raw, dict):
        raw = raw.get("one2many", raw)
    maps: list[Tensor] = raw["feats"] if isinstance(raw, dict) else raw
    return maps


def _parts(criterion: Any) -> list[tuple[Any, float]]:
    """The criteria that know anchors, with their factors in the total today."""
    if type(criterion).__name__ not in PAIRS:
        return [(criterion, 1.0)]
    factors = [getattr(criterion, name, 1.0) for name in ("o2m", "o2o")]  # E2EDetectLoss has none
    return list(zip((criterion.one2many, criterion.one2one), factors, strict=True))


def attach(
    model: Any,
    scheme: SchemeLike = LEVEL_SCHEME,
    interval: int = 100,
    normalize: Literal["mean", "loss"] = "loss",
    accumulate: int = 1,
    seed: int = 0,
) -> LevelCriterion:
    """Weigh the losses of a YOLO detection model by level from now on.

    For training loops of your own; with Ultralytics' trainer use `balanced_trainer`. To undo it,
    set `model.criterion = None`.

    Args:
        model: a `DetectionModel`, not wrapped, on its device, with `model.args` as the trainer
            sets it (`ultralytics.cfg.get_cfg()`).
        scheme: as of `LossBalancer`, but without parameters of its own.
        interval: optimizer steps between two updates of the weights.
        normalize: what the weights keep, see `LossBalancer`.
        accumulate: training steps of the model per optimizer step.
        seed: of the scheme's random numbers.

    Returns:
        The new `model.criterion`.

    Raises:
        AttachError: the model or its criterion is none of Ultralytics' plain detection ones, or an
            argument is refused.
    """
    criterion = _plain_criterion(model)
    try:
        balancer = LossBalancer(
            model.model[-1].nl, own_scheme(scheme), interval, normalize, accumulate, seed=seed
        ).to(next(model.parameters()).device)
    except ValueError as error:
        raise AttachError(str(error)) from None
    weighed = LevelCriterion(criterion, balancer)
    model.criterion = weighed
    return weighed


def _plain_criterion(model: Any) -> Any:
    """The model's own criterion.

    Raises:
        AttachError: it is not known, or weighed already.
    """
    if type(model) is not DetectionModel or type(model.model[-1]).__name__ not in HEADS:
        head = type(model.model[-1]).__name__ if isinstance(model, DetectionModel) else "none"
        raise AttachError(
            f"{type(model).__name__} with head {head}: only plain YOLO detection models (v5u, v8, "
            "v10, 11, 12, 26) have losses that all belong to a level; masks, keypoints, angles, "
            "prompts and RT-DETR's queries do not"
        )
    if not hasattr(getattr(model, "args", None), "box"):
        raise AttachError(
            "model.args lacks the loss gains; set model.args = ultralytics.cfg.get_cfg()"
        )
    criterion = getattr(model, "criterion", None) or model.init_criterion()
    if isinstance(criterion, LevelCriterion):
        raise AttachError("this model has level weights already; set model.criterion = None first")
    known = [getattr(losses, name) for name in PAIRS if hasattr(losses, name)]
    if (
        "loss" in vars(model)
        or type(criterion) not in (losses.v8DetectionLoss, *known)
        or any(type(part) is not losses.v8DetectionLoss for part, _ in _parts(criterion))
        or any(type(part.bbox_loss) is not losses.BboxLoss for part, _ in _parts(criterion))
        or any(type(part.bce) is not nn.BCEWithLogitsLoss for part, _ in _parts(criterion))
        or any(part.bce.reduction != "none" for part, _ in _parts(criterion))
    ):
        raise AttachError(
            f"the model's criterion {type(criterion).__name__} is not Ultralytics' own detection "
            "loss: its levels cannot be told apart; call a LossBalancer in it instead"
        )
    return criterion
