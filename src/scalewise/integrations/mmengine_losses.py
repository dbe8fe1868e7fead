"""Level losses out of an mmengine model's dict of losses, and weights back into it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from scalewise.integrations.attached import AttachError
from scalewise.integrations.mmengine_heads import Rows
from scalewise.weighting import LossBalancer, scale_gradients


class ListLosses:
    """Losses that come as lists with one entry per level.

    Args:
        names: of the losses.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def levels(self, losses: Mapping[str, Any]) -> dict[str, Tensor]:
        """Unweighted losses of the levels, detached, float32 [n] by name.

        Raises:
            AttachError: a loss is missing or no list, or the lists differ in length.
        """
        found = {}
        for name in self.names:
            entries = losses.get(name)
            if not isinstance(entries, list) or not entries:
                lists = [key for key, value in losses.items() if isinstance(value, list)]
                what = "missing" if name not in losses else f"a {type(entries).__name__}"
                raise AttachError(
                    f"{name} is {what}, not a list with one loss per level; "
                    f"the model's lists are: {', '.join(lists) or 'none'}"
                )
            found[name] = torch.stack([entry.detach().mean().float() for entry in entries])
        lengths = {name: len(levels) for name, levels in found.items()}
        if len(set(lengths.values())) > 1:
            raise AttachError(
                f"the lists differ in length: {lengths}; name losses of the same levels only"
            )
        return found

    def weigh(
        self, losses: Mapping[str, Any], levels: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, list[Tensor]]:
        """The same lists, each entry times the weight of its level."""
        return {
            name: [
                (loss.to(torch.promote_types(loss.dtype, torch.float32)) * weight).to(loss.dtype)
                for loss, weight in zip(losses[name], weights, strict=True)
            ]
            for name in self.names
        }


class RowLosses:
    """Scalar losses of a head: weighs the gradients of its predictions by level.

    For the statistics each loss module is called once more, without gradients and without
    reduction, and its rows are summed by level. The head's own scalar is then divided among the
    levels in proportion, so that its normaliser needs not be known.

    Args:
        head: an MMDetection head whose forward returns one tensor per level and kind of prediction.
        place: where its losses are.
    """

    def __init__(self, head: Any, place: Rows) -> None:
        self.head = head
        self.place = place
        self.modules = {name: getattr(head, own) for name, own in place.losses.items()}
        for name, module in self.modules.items():
            if any(True for _ in module.parameters()):
                raise AttachError(
                    f"{type(module).__name__}, which computes {name}, has parameters: they would "
                    "not see the weights, which reach the head's predictions only"
                )
        self._handles: list[RemovableHandle] = []
        self._sizes: list[tuple[int, int]] = []  # images and locations of each level
        self._masks: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}

    def connect(self, balancer: LossBalancer) -> None:
        """Put the hooks in place."""
        self.balancer = balancer
        self._targets: Callable[..., Any] = getattr(self.head, self.place.targets)
        setattr(self.head, self.place.targets, self._note_targets)
        self._handles = [self.head.register_forward_hook(self._scale)]
        for name, module in self.modules.items():
            hook = functools.partial(self._note_rows, name)
            self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def disconnect(self) -> None:
        """Take them back."""
        for handle in self._handles:
            handle.remove()
        delattr(self.head, self.place.targets)

    def levels(self, losses: Mapping[str, Any]) -> dict[str, Tensor]:
        """Unweighted losses of the levels, detached, float32 [n] by name."""
        found = {}
        for name in self.modules:
            if name in losses:
                sums = self._sums.get(name, torch.zeros_like(self.balancer.weights))
                total = sums.sum()
                share = sums / torch.where(total == 0, 1, total)
                found[name] = losses[name].detach().float() * share
        return found

    def weigh(
        self, losses: Mapping[str, Any], levels: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Tensor]:
        """The scalars with their weighted values; the gradients are weighted already."""
        return {
            name: (losses[name] + ((weights - 1) * own).sum()).to(losses[name].dtype)
            for name, own in levels.items()
        }

    def _scale(self, head: Any, inputs: Any, outputs: Any) -> Any:
        if not (head.training and torch.is_grad_enabled()):
            return None
        weights = self.balancer.weights
        for part in outputs:
            if len(part) != len(weights):
                raise AttachError(
                    f"{type(head).__name__} predicts on {len(part)} levels, but its "
                    f"prior_generator knows {len(weights)}"
                )
        self._sizes = [(len(level), level.shape[-2] * level.shape[-1]) for level in outputs[0]]
        self._masks, self._sums = [], {}
        return tuple(scale_gradients(part, weights) for part in outputs)

    def _note_targets(self, *args: Any, **named: Any) -> Any:
        result = self._targets(*args, **named)
        first = result[0]
        if self.place.by_image:
            self._masks.append(first)
        else:
            labels = first if isinstance(first, Tensor) else torch.cat(list(first))
            self._masks = [(labels >= 0) & (labels < self.head.num_classes)]
        return result

    def _note_rows(
        self, name: str, module: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        if not (self.head.training and torch.is_grad_enabled()):
            return
        named = {key: value for key, value in named.items() if key != "avg_factor"}
        with torch.no_grad():
            rows = module.forward(*args, **named, reduction_override="none")
        rows = rows.float().flatten(1).sum(1) if rows.ndim > 1 else rows.float()
        level = self._levels_of(len(rows), name, rows.device)
        sums = rows.new_zeros(len(self._sizes)).index_add_(0, level, rows)
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def _levels_of(self, count: int, name: str, device: torch.device) -> Tensor:
        """Level of each row of a loss, int64 [count]."""
        locations = torch.tensor([size for _, size in self._sizes])
        images = self._sizes[0][0]
        order = torch.arange(len(locations))
        if self.place.by_image:
            level = order.repeat_interleave(locations).repeat(images)
        else:
            level = order.repeat_interleave(locations * images)
        level = level.to(device)
        if count == len(level):
            return level
        positive = torch.cat(self._masks) if self._masks else level.new_zeros(0, dtype=torch.bool)
        if len(positive) == len(level):
            level = level[positive]
        if count != len(level):
            raise AttachError(
                f"{name} is computed from {count} rows, which are neither all locations nor the "
                f"positive ones: {type(self.head).__name__} does not work as MMDetection's own"
            )
        return level
