"""The criterion of a YOLO model, weighed by group in training steps.

Ultralytics' own criterion runs unchanged, but its terms of boxes and classes are weighed by group
before it adds them up (`ultralytics_terms`). Terms of masks, keypoints and angles stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor

from scalewise.integrations.attached import AttachedBalancer
from scalewise.integrations.ultralytics_terms import (
    CLASS,
    POSITIVES,
    Branch,
    StepGroups,
    unknown,
    weighed,
)
from scalewise.weighting import Grouping, LossBalancer

SET = "dense"  # name of the only set of groups
TERMS = ("box_loss", "cls_loss", "dfl_loss")  # where the release does not name them itself
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
    """Takes the place of a model's `criterion` and weighs it by group in training steps.

    Without gradients or in evaluation mode it acts as the plain criterion. Its copies and pickles
    are the plain criterion.

    Args:
        model: the model that has the criterion.
        criterion: the plain one.
        attached: holds the balancer of the set "dense". It records the losses of the groups, summed
            over the terms, as means over the batch: the batch size, by which Ultralytics multiplies
            them, is taken out.
        grouping: grouping of the positives; None for whole levels.
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
        """Keep the present weights until the next call, however many steps are recorded."""
        self._held = self._copied()

    def _copied(self) -> Tensor:
        """A copy of the present weights, [n + 1]; the last is 1, for what is in no group."""
        weights = self.balancer.weights
        return torch.cat((weights, weights.new_ones(1)))

    def __call__(self, preds: Any, batch: Any) -> tuple[Tensor, Any]:
        """The loss as Ultralytics returns it, weighted."""
        device = next(self.model.parameters()).device
        if device != self.balancer.weights.device:
            self._move(device)
        if not (self.model.training and torch.is_grad_enabled()):
            plain: tuple[Tensor, Any] = self.criterion(preds, batch)
            return plain
        groups = self._groups(preds)
        branches = [Branch(part, gain, groups) for part, gain in parts_of(self.criterion)]
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

    def _move(self, device: torch.device) -> None:
        """Move to the model's device; the criterion is made anew, as its tensors do not move."""
        self.balancer.to(device)
        self._held = None if self._held is None else self._held.to(device)
        self._sums = None if self._sums is None else self._sums.to(device)
        self._weights = self._weights.to(device)
        numbers = {k: v for k, v in vars(self.criterion).items() if isinstance(v, int | float)}
        self.criterion = self.model.init_criterion()
        vars(self.criterion).update(numbers)  # an end-to-end criterion changes its factors

    def _groups(self, preds: Any) -> StepGroups:
        weights = self._copied() if self._held is None else self._held
        group_of = None if self.grouping is None else self.grouping.group_of
        levels = None if group_of is not None else _level_of_anchors(_counts(preds), weights.device)
        whole = self.grouping is None
        return StepGroups(weights, len(weights) - 1, group_of, levels, whole)

    def means(self) -> dict[str, float]:
        """Means over the steps since the last call, read from the device.

        Returns:
            Values by keys such as "loss/platelet": Ultralytics' name of a term, "loss" (the sum of
            the terms), "weight" or "positives", then the group. The group "background" is what is
            in no group. Empty without a step.
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
        part = parts_of(self.criterion)[0][0]
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
    """Compare the terms [3]; this reads from the device once, on the first step only."""
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


def parts_of(criterion: Any) -> list[tuple[Any, float]]:
    """The criteria that work on anchors, each with its present factor in the total."""
    if type(criterion).__name__ not in PAIRS:
        return [(criterion, 1.0)]
    factors = [getattr(criterion, name, 1.0) for name in ("o2m", "o2o")]  # E2EDetectLoss has none
    return list(zip((criterion.one2many, criterion.one2one), factors, strict=True))
