"""The box and class terms of Ultralytics' losses by group, weighed where its own code adds up.

The assigner tells the object of each anchor, and so its group. What the criterion then sums over
the anchors is weighed by group first. The losses of the groups are sums of the same values, so they
need no extra pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from scalewise.integrations.options import AttachError
from scalewise.weighting.groups import GroupOf

BOX, CLASS, DISTRIBUTION, POSITIVES = range(4)  # rows of `Branch.sums`


@dataclass(frozen=True)
class StepGroups:
    """What decides an anchor's group in one step, and the weights.

    Attributes:
        weights: float32 [n + 1]; the last is 1, for what is in no group.
        count: the number n of groups.
        group_of: as in `Grouping`, in pixels of the training image; None if the level decides.
        levels: int64 [A], the level of each anchor, if the level decides.
        whole: whether the background of a level is weighed with the level.
    """

    weights: Tensor
    count: int
    group_of: GroupOf | None
    levels: Tensor | None
    whole: bool

    def find(self, labels: Tensor, boxes: Tensor, positive: Tensor) -> Tensor:
        """The group of each anchor.

        Args:
            labels: [B, A], the class of the object assigned to each anchor.
            boxes: the object's box in pixels, [B, A, 4] (x1, y1, x2, y2) or [B, A, 5] (x, y, w, h,
                angle).
            positive: [B, A], not 0 for anchors that have an object.

        Returns:
            int64 [B, A]; n for none.
        """
        if self.group_of is not None:
            found = self.group_of(_upright(boxes), labels.long())
        else:
            assert self.levels is not None
            found = self.levels.expand(positive.shape)
        return found if self.whole else torch.where(positive.bool(), found, self.count)


def _upright(boxes: Tensor) -> Tensor:
    """Rotated boxes turned upright about their centres; their sides stay."""
    if boxes.shape[-1] == 4:
        return boxes
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), -1)


class Branch:
    """One of Ultralytics' criteria during one step.

    Args:
        part: the criterion, such as a `v8DetectionLoss`.
        gain: its factor in the total.
        groups: of this step.
    """

    def __init__(self, part: Any, gain: float, groups: StepGroups) -> None:
        self.part, self.gain, self.groups = part, gain, groups
        self.assigner, self.bce, self.bbox_loss = part.assigner, part.bce, part.bbox_loss
        self.ids = self.scores = torch.empty(0, 0)  # [B, A]
        self.targets = torch.empty(0, 0, 0)  # [B, A, C]
        self.boxes: _BoxSums | None = None  # some releases leave it out in a batch without objects
        self.divisor: Tensor | int = 1

    def assign(self, *inputs: Any, **others: Any) -> Any:
        """Takes the place of `assigner`."""
        found = self.assigner(*inputs, **others)
        labels, boxes, targets, positive, *_ = found
        self.ids = self.groups.find(labels, boxes, positive)
        self.targets = targets
        return found

    def weigh_scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Takes the place of `bce`: [B, A, C]."""
        loss: Tensor = self.bce(logits, targets)
        by_class = getattr(self.part, "class_weights", None)
        own = loss.detach() if by_class is None else loss.detach() * by_class
        self.scores = own.sum(-1, dtype=torch.float32)
        if self.scores.shape != self.ids.shape:
            raise unknown(f"its class losses are of shape {tuple(loss.shape)}")
        weights = self.groups.weights.index_select(0, self.ids.flatten()).view(*self.ids.shape, 1)
        return loss.mul_(weights)  # in place: it is large, and nobody else has seen it

    def weigh_boxes(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Takes the place of `bbox_loss`; each of its sums over anchors contains the scores."""
        self.divisor = inputs[5]
        scores = inputs[4].as_subclass(_Scores)
        scores.sums = self.boxes = _BoxSums(self.ids, self.groups.weights)
        found: tuple[Tensor, Tensor] = self.bbox_loss(*inputs[:4], scores, *inputs[5:])
        if len(self.boxes.values) != 2:
            raise unknown(f"its boxes are added up {len(self.boxes.values)} times instead of twice")
        return found

    def sums(self) -> Tensor:
        """Float32 [4, n + 1]: the unweighted box, class and distribution losses, and positives.

        The losses are means over the batch, with Ultralytics' gains; the last column is what is in
        no group. A positive counts with its target score: Ultralytics weighs its box by this score
        and divides the losses by the sum of scores. An object that is hardly found has positives
        whose loss is near 0; if each counted as 1, they would look as if they were learned.
        """
        index, ids, (box, distribution) = self._positives()
        parts = self.targets[index].sum(-1, dtype=torch.float32)
        count, scores = self.groups.count, self.scores
        if self.groups.whole:
            assert self.groups.levels is not None
            sums = _by_group(torch.stack((box, box, distribution, parts)), ids, count)
            sums[CLASS] = _by_group(scores.sum(0)[None], self.groups.levels, count)[0]
        else:
            sums = _by_group(torch.stack((box, scores[index], distribution, parts)), ids, count)
            sums[CLASS, -1] += torch.where(self.ids == count, scores, 0).sum()
        own = self.part.hyp
        gains = tuple(self.gain * float(gain) for gain in (own.box, own.cls, own.dfl))
        sums = sums * _column((*gains, 1.0), sums.device)
        sums[:POSITIVES] /= self.divisor
        return sums

    def _positives(self) -> tuple[Any, Tensor, Sequence[Tensor]]:
        """Where the positives are, their groups int64 [N], their box and distribution losses."""
        if self.boxes is not None and self.boxes.ids is not None:
            return self.boxes.index, self.boxes.ids, self.boxes.values
        none = self.scores.new_zeros(0)
        return (none.long(), none.long()), none.long(), (none, none)


@lru_cache(maxsize=64)  # the gains of an end-to-end model's parts change from epoch to epoch
@torch.inference_mode(False)
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Float32 [K, 1]; kept, because making one on a device waits for the device."""
    return torch.tensor(values, device=device)[:, None]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _numbers(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)


class _BoxSums:
    """Weighs the values that `BboxLoss` adds up, one for each positive, and keeps them.

    Attributes:
        values: for each sum the unweighted values, float32 [N].
        index: index of the positives among the anchors.
        ids: int64 [N], groups of the positives.
    """

    def __init__(self, anchors: Tensor, weights: Tensor) -> None:
        self.values: list[Tensor] = []
        self.index: Any = None
        self.ids: Tensor | None = None
        self._anchors, self._weights = anchors, weights  # [B, A], [n + 1]

    def choose(self, index: Any) -> Any:
        """Learn which anchors are positive; returns an index that need not ask the device."""
        if isinstance(index, Tensor) and index.dtype is torch.bool:
            index = index.nonzero(as_tuple=True)
        self.index, self.ids = index, self._anchors[index]
        return index

    def add_up(self, values: Tensor) -> Tensor:
        """The weighted sum."""
        if self.ids is None or values.shape != (len(self.ids), 1):
            raise unknown(f"it adds up box losses of shape {tuple(values.shape)}")
        self.values.append(values.detach()[:, 0].float())
        return (values * self._weights.index_select(0, self.ids)[:, None]).sum().to(values.dtype)


class _Scores(Tensor):
    """Target scores, and what is computed from them, up to a sum over anchors."""

    sums: _BoxSums

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        sums = next((value.sums for value in args if isinstance(value, _Scores)), None)
        if sums is None:
            raise unknown(f"its boxes use the target scores in {func.__name__}")
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.sum and len(args) == 1 and not kwargs:
                return sums.add_up(args[0].as_subclass(Tensor))
            if func is Tensor.__getitem__:
                args = (args[0], sums.choose(args[1]))
            found = func(*args, **(kwargs or {}))
        if not isinstance(found, Tensor):
            return found
        scores = found.as_subclass(_Scores)
        scores.sums = sums
        return scores


def _by_group(values: Tensor, ids: Tensor, groups: int) -> Tensor:
    """Float32 sums [K, n + 1] of [K, M] by the groups [M]; what is not finite stays in its group.

    A scatter would be slow here: Ultralytics asks torch for deterministic ones.
    """
    members = ids[:, None] == _numbers(groups + 1, ids.device)  # [M, n + 1]
    return torch.where(members, values[..., None], 0).sum(1, dtype=torch.float32)


@contextmanager
def weighed(branches: Sequence[Branch]) -> Iterator[None]:
    """Put the weighing stand-ins into the criteria, inside of the block only."""
    for branch in branches:
        part = branch.part
        part.assigner, part.bce = branch.assign, branch.weigh_scores
        part.bbox_loss = branch.weigh_boxes
    try:
        yield
    finally:
        for branch in branches:
            part = branch.part
            part.assigner, part.bce = branch.assigner, branch.bce
            part.bbox_loss = branch.bbox_loss


def unknown(what: str) -> AttachError:
    """The error for a loss that is computed in an unknown way."""
    return AttachError(
        f"{what}: this release of Ultralytics computes its loss in another way; use a tested one "
        "(docs/ultralytics.md)"
    )
