"""Level weights in the loss of Ultralytics' YOLO detection models.

The model's own criterion runs, unchanged, with a factor per level on its classification and box
terms. It is linear in these factors, so its derivative by a factor is the loss of that level, with
every gain, class weight and branch already in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import loss as losses

from scalewise.integrations.attached import AttachError
from scalewise.weighting import LearnedScheme, LossBalancer, Scheme, SchemeLike
from scalewise.weighting.words import as_scheme

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
        level_losses: of the last step, unweighted, detached, float32 [n] by Ultralytics' name.
    """

    def __init__(self, criterion: Any, balancer: LossBalancer) -> None:
        self.criterion = criterion
        self.balancer = balancer
        self.level_losses: dict[str, Tensor] = {}
        self._held: Tensor | None = None
        self._checked = False
        self._sums: Tensor | None = None
        self._steps = 0

    @property
    def weights(self) -> Tensor:
        """Weights of the next step, float32 [n]."""
        return self.balancer.weights if self._held is None else self._held

    def hold(self) -> None:
        """Keep today's weights until the next call, however many steps are recorded."""
        self._held = self.balancer.weights.clone()

    def __call__(self, preds: Any, batch: Any) -> tuple[Tensor, Any]:
        """The loss as Ultralytics returns it, weighted."""
        if not torch.is_grad_enabled():
            plain: tuple[Tensor, Any] = self.criterion(preds, batch)
            return plain
        maps = _feature_maps(preds)
        counts = [level.shape[-2] * level.shape[-1] for level in maps]
        weights = self.weights.clone()
        branches = [_Branch(part, counts, weights) for part in _parts(self.criterion)]
        with _factors(branches):
            total, items = self.criterion(preds, batch)
        levels = _level_losses(total, branches) / len(maps[0])
        if not self._checked:
            _check_linear(total, levels * len(maps[0]), weights)
            self._checked = True
        names = getattr(branches[0].part, "loss_names", TERMS)
        self.level_losses = dict(zip(names, levels, strict=True))
        rows = torch.cat((levels, weights[None]))
        self._sums = rows if self._sums is None else self._sums + rows
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
            **dict(zip(self.level_losses, terms, strict=True)),
            "loss": rows[:-1].sum(0).tolist(),
            "weight": weight,
        }

    def __getattr__(self, name: str) -> Any:
        """What else Ultralytics asks of its criterion, such as `update` of an end-to-end one."""
        return getattr(self.criterion, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.criterion, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return copy.copy, (self.criterion,)


class _Branch:
    """One `v8DetectionLoss` during one step.

    The factors are leaves of the graph. The box terms share theirs, so each is split where it
    arises; what the criterion then multiplies it by is the derivative by an added zero.
    """

    def __init__(self, part: Any, counts: Sequence[int], weights: Tensor) -> None:
        self.part = part
        self.counts = counts
        self.bce, self.bbox_loss = part.bce, part.bbox_loss
        self.scores, self.boxes = (weights.clone().requires_grad_() for _ in range(2))
        self.zeros = [weights.new_zeros((), requires_grad=True) for _ in range(2)]
        self.shares = [torch.zeros_like(weights) for _ in range(2)]

    def weigh_scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """In place of `bce`: [B, A, C]."""
        loss: Tensor = self.bce(logits, targets)
        return loss * self._by_anchor(self.scores)

    def weigh_boxes(
        self,
        distances: Tensor,
        boxes: Tensor,
        points: Tensor,
        targets: Tensor,
        scores: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """In place of `bbox_loss`, which knows an anchor's scores by their sum alone."""
        factor = scores.sum(-1, keepdim=True) * self._by_anchor(self.boxes)  # [B, A, 1]
        box, distribution = self.bbox_loss(distances, boxes, points, targets, factor, *others)
        for place, term in enumerate((box, distribution)):
            if term.requires_grad:
                (share,) = torch.autograd.grad(term, self.boxes, retain_graph=True)
                self.shares[place] = share
        return box + self.zeros[0], distribution + self.zeros[1]

    def _by_anchor(self, factors: Tensor) -> Tensor:
        parts = [factors[level].expand(count) for level, count in enumerate(self.counts)]
        return torch.cat(parts)[:, None]  # [A, 1]


@contextmanager
def _factors(branches: Sequence[_Branch]) -> Iterator[None]:
    """The criterion sees the weighing stand-ins inside of the block only."""
    for branch in branches:
        branch.part.bce, branch.part.bbox_loss = branch.weigh_scores, branch.weigh_boxes
    try:
        yield
    finally:
        for branch in branches:
            branch.part.bce, branch.part.bbox_loss = branch.bce, branch.bbox_loss


def _level_losses(total: Tensor, branches: Sequence[_Branch]) -> Tensor:
    """Unweighted losses [3, n]: box, class, distribution."""
    leaves = [leaf for branch in branches for leaf in (*branch.zeros, branch.scores)]
    found = torch.autograd.grad(
        total.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    levels = torch.zeros(3, len(branches[0].counts), device=total.device)
    for place, branch in enumerate(branches):
        box, distribution, scores = found[3 * place : 3 * place + 3]
        levels += torch.stack((box * branch.shares[0], scores, distribution * branch.shares[1]))
    return levels


def _check_linear(total: Tensor, levels: Tensor, weights: Tensor) -> None:
    """One read from the device, on the first step only."""
    own, ours = float(total.detach().sum()), float((levels * weights).sum())
    if abs(own - ours) > TOLERANCE * abs(own):
        raise AttachError(
            f"the level losses add up to {ours:.6g} but Ultralytics' loss is {own:.6g}: this "
            "release computes its loss in another way; use a tested one (docs/ultralytics.md)"
        )


def _feature_maps(preds: Any) -> list[Tensor]:
    """The head's maps [B, *, h, w], which only give the sizes."""
    raw = preds[1] if isinstance(preds, tuple) else preds
    if isinstance(raw, dict):
        raw = raw.get("one2many", raw)
    maps: list[Tensor] = raw["feats"] if isinstance(raw, dict) else raw
    return maps


def _parts(criterion: Any) -> list[Any]:
    if type(criterion).__name__ in PAIRS:
        return [criterion.one2many, criterion.one2one]
    return [criterion]


def attach(
    model: Any,
    scheme: SchemeLike = "avw:invert=true",
    interval: int = 100,
    normalize: Literal["mean", "loss"] = "mean",
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
        own = as_scheme(copy.deepcopy(scheme) if isinstance(scheme, Scheme) else scheme)
        if isinstance(own, LearnedScheme):
            raise ValueError(
                f"{own.name} trains weights by back-propagation, but Ultralytics' optimizer does "
                "not know them; choose another scheme"
            )
        balancer = LossBalancer(
            model.model[-1].nl, own, interval, normalize, accumulate, seed=seed
        ).to(next(model.parameters()).device)
    except (ValueError, TypeError) as error:
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
    parts = _parts(criterion)
    if (
        "loss" in vars(model)
        or type(criterion) not in (losses.v8DetectionLoss, *known)
        or any(type(part) is not losses.v8DetectionLoss for part in parts)
        or any(type(part.bbox_loss) is not losses.BboxLoss for part in parts)
        or any(type(part.bce) is not nn.BCEWithLogitsLoss for part in parts)
        or any(part.bce.reduction != "none" for part in parts)
    ):
        raise AttachError(
            f"the model's criterion {type(criterion).__name__} is not Ultralytics' own detection "
            "loss: its levels cannot be told apart; call a LossBalancer in it instead"
        )
    return criterion
