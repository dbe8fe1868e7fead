"""Take the losses of groups from an mmengine model's dict of losses, and put weights into it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scalewise.integrations.options import AttachError
from scalewise.weighting import LossBalancer


@dataclass(frozen=True)
class Seen:
    """What a step's loss was made of.

    Attributes:
        groups: unweighted losses, detached, by the name of the loss: float32 [n] for whole levels,
            else [n + 1], where the last entry is what is in no group.
        positives: number of positives of each group, float32 [n]; None for whole levels.
        even: used in place of the sum of `groups` if the head gives less weight to boxes that are
            found badly: the same total, shared out among the groups as if it did not.
    """

    groups: dict[str, Tensor]
    positives: Tensor | None = None
    even: Tensor | None = None

    @property
    def recorded(self) -> Tensor:
        """The losses of the groups, summed over all losses, from which statistics are made."""
        return torch.stack(list(self.groups.values())).sum(0) if self.even is None else self.even


class Part(Protocol):
    """One set of groups of a model."""

    def connect(self, balancer: LossBalancer) -> None:
        """Put hooks in place."""

    def disconnect(self) -> None:
        """Remove them."""

    def take(self, losses: Mapping[str, Any]) -> Seen | None:
        """What the last step's loss was made of; None if the part had no step."""

    def weigh(
        self, losses: Mapping[str, Any], groups: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, Any]:
        """The weighted losses by name; `weights` are as long as each of `groups`."""


class ListLosses:
    """Losses that come as lists with one entry per level; each entry is weighed as a whole.

    Args:
        names: names of the losses.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def connect(self, balancer: LossBalancer) -> None:
        """Nothing to do."""

    def disconnect(self) -> None:
        """Nothing to do."""

    def take(self, losses: Mapping[str, Any]) -> Seen:
        """The lists' own entries.

        Raises:
            AttachError: a loss is missing or not a list, or the lists differ in length.
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
        return Seen(found)

    def weigh(
        self, losses: Mapping[str, Any], groups: Mapping[str, Tensor], weights: Tensor
    ) -> dict[str, list[Tensor]]:
        """The same lists, each entry times the weight of its level."""
        return {
            name: [
                (loss.to(torch.promote_types(loss.dtype, torch.float32)) * weight).to(loss.dtype)
                for loss, weight in zip(losses[name], weights, strict=True)
            ]
            for name in self.names
        }


def show_weighted(
    losses: Mapping[str, Any], groups: Mapping[str, Tensor], weights: Tensor
) -> dict[str, Any]:
    """The losses with their weighted values, where the gradients are weighted already."""
    shown: dict[str, Any] = {}
    for name, own in groups.items():
        more = ((weights - 1) * own).sum()
        loss = losses[name]
        if isinstance(loss, list):
            shown[name] = [(loss[0] + more).to(loss[0].dtype), *loss[1:]]
        else:
            shown[name] = (loss + more).to(loss.dtype)
    return shown


class Taps:
    """The replaced methods and the hooks of a model, which are removed together."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._replaced: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Call `wrapper(the method, *arguments)` in the method's place."""
        self._replaced.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, functools.partial(wrapper, getattr(owner, name)))

    def hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, named, output)` after each forward pass of the module."""
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Remove all of them."""
        for handle in self._handles:
            handle.remove()
        for owner, name, before in self._replaced:
            delattr(owner, name)  # restores the class's method
            if before is not None:
                setattr(owner, name, before)
        self._handles, self._replaced = [], []


class LossRows:
    """Rows of a head's losses, before any reduction, in a training step.

    Each loss module is called once more, without gradients and without reduction.

    Args:
        head: the head that has the modules.
        modules: names of its attributes with the modules of each loss, by the loss's name.
        doubted: names of the losses whose rows the head weighs by how well a box is found.

    Attributes:
        chunk: number under which rows are kept, a level's or 0; None while nothing is recorded.
        rows: float32 [k] by name and chunk.
        even: the same for the doubted losses, without the head's weights.

    Raises:
        AttachError: a module has parameters or a state.
    """

    def __init__(
        self, head: Any, modules: Mapping[str, Iterable[str]], doubted: Collection[str] = ()
    ) -> None:
        self.doubted = doubted
        self.modules = [
            (name, getattr(head, attribute)) for name, own in modules.items() for attribute in own
        ]
        for name, module in self.modules:
            who = f"{type(module).__name__}, which computes {name},"
            if any(True for _ in module.parameters()):
                raise AttachError(
                    f"{who} has parameters: they would not see the weights, which reach the head's "
                    "predictions only; nothing was changed"
                )
            if any(True for _ in module.buffers()):
                raise AttachError(
                    f"{who} keeps a state, which a second call for the statistics would disturb; "
                    "nothing was changed. Use a loss without one"
                )
        self.forget()
        self.chunk: int | None = None

    def forget(self) -> None:
        """Drop what was recorded."""
        self.rows: dict[tuple[str, int], Tensor] = {}
        self.even: dict[tuple[str, int], Tensor] = {}

    def connect(self, taps: Taps) -> None:
        """Put the hooks in place."""
        for name, module in self.modules:
            taps.hook(module, functools.partial(self._note, name))

    def _note(
        self, name: str, module: Any, args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        if self.chunk is None or not torch.is_grad_enabled():
            return
        named = {key: value for key, value in named.items() if key != "avg_factor"}
        _keep_rows(self.rows, (name, self.chunk), module, args, named)
        if name in self.doubted:
            _keep_rows(self.even, (name, self.chunk), module, args, {**named, "weight": None})


def _keep_rows(
    kept: dict[tuple[str, int], Tensor],
    key: tuple[str, int],
    module: Any,
    args: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    with torch.no_grad():
        rows = module.forward(*args, **{**named, "reduction_override": "none"})
    if not rows.ndim:
        return  # L1Loss and others give a scalar when all rows weigh 0
    rows = rows.float()
    kept[key] = rows.flatten(1).sum(1) if rows.ndim > 1 else rows


def original_boxes(boxes: Any, meta: Mapping[str, Any]) -> Tensor:
    """Boxes [k, 4] in pixels of the original image, where its scale is known."""
    plain: Tensor = getattr(boxes, "tensor", boxes)
    scale = meta.get("scale_factor")
    if scale is None:
        return plain
    x1, y1, x2, y2 = plain.unbind(-1)
    width, height = float(scale[0]), float(scale[1])
    return torch.stack((x1 / width, y1 / height, x2 / width, y2 / height), -1)
