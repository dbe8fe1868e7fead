"""The balancers of one mmengine model; they work where `parse_losses` adds its losses up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scalewise.integrations.mmengine_losses import Part, Taps
from scalewise.integrations.options import AttachError, Options
from scalewise.weighting import Grouping, LossBalancer

State = dict[str, dict[str, Tensor]]
Groups = Grouping | Sequence[str] | None  # None: the length of the lists tells


class GroupWeights:
    """Weighs the losses of one model by group; made by `attach_mmdet`.

    Attributes:
        balancers: by set of groups: "dense", "rpn", "roi", or "named" for `losses=`, which exists
            from the first step on. `attached["rpn"]` is short for one of them.
        group_losses: the last unweighted losses, detached, under the model's own name of each loss:
            [n] for whole levels; [n + 1] for groups of positives, with the background last.
    """

    def __init__(
        self, model: Any, parts: Mapping[str, tuple[Part, Groups]], options: Options
    ) -> None:
        self.balancers: dict[str, LossBalancer] = {}
        self.group_losses: dict[str, Tensor] = {}
        self.names: dict[str, list[str]] = {}  # of the losses, by set
        self._model = model
        self._parts = {name: part for name, (part, _) in parts.items()}
        self._options = options
        self._waiting: State = {}
        self._taps = Taps()
        self._waits = False  # True until parse_losses has added up the losses of a step
        for name, (_, groups) in parts.items():
            if groups is not None:
                self._make(name, groups)
        for name, part in self._parts.items():
            if name in self.balancers:
                part.connect(self.balancers[name])
        self._taps.replace(model, "parse_losses", self._parse_weighted)
        self._taps.replace(model, "_apply", self._move_too)
        if callable(getattr(type(model), "loss", None)):
            self._taps.replace(model, "loss", self._note_loss)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The current weights: float32 [n] for each set of groups."""
        return {name: balancer.weights for name, balancer in self.balancers.items()}

    def __getitem__(self, name: str) -> LossBalancer:
        """The balancer of a set of groups."""
        return self.balancers[name]

    def detach(self) -> None:
        """Give the model back as it was."""
        self._taps.remove()
        for part in self._parts.values():
            part.disconnect()

    def state_dict(self) -> State:
        """The balancers' states by set of groups: tensors on the CPU."""
        return self._waiting | {
            name: {key: value.cpu().clone() for key, value in balancer.state_dict().items()}
            for name, balancer in self.balancers.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from a saved state.

        Raises:
            AttachError: it was saved with another scheme or other groups.
        """
        if set(state) != set(self._parts):
            raise AttachError(
                f"the checkpoint weighs {sorted(state)}, this model {sorted(self._parts)}; "
                "resume with the same model, by= and losses="
            )
        self._waiting = {name: dict(own) for name, own in state.items()}
        for name, balancer in self.balancers.items():
            self._restore(name, balancer)

    def group_totals(self, name: str) -> Tensor:
        """The last unweighted losses of a set's groups, summed over its losses, float32 [n]."""
        groups = torch.stack([self.group_losses[loss] for loss in self.names[name]]).sum(0)
        return groups[: self.balancers[name].num_groups]

    def _make(self, name: str, groups: Grouping | Sequence[str]) -> None:
        balancer = self._options.make_balancer(groups, place=list(self._parts).index(name))
        balancer = balancer.to(next(self._model.parameters()).device)
        self._restore(name, balancer)
        self.balancers[name] = balancer

    def _restore(self, name: str, balancer: LossBalancer) -> None:
        state = self._waiting.pop(name, None)
        if state is not None:
            try:
                balancer.load_state_dict(state)
            except (ValueError, RuntimeError) as error:
                raise AttachError(f"weights of {name!r} in the checkpoint: {error}") from None

    def _move_too(self, apply: Callable[..., Any], fn: Callable[..., Any], *more: Any) -> Any:
        """Move the balancers with the model to another device; their dtype stays."""
        moved = apply(fn, *more)
        for balancer in self.balancers.values():
            balancer._apply(fn)
        return moved

    @property
    def _at_work(self) -> bool:
        return self._model.training and torch.is_grad_enabled()

    def _note_loss(self, plain: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self._waits and self._at_work:
            warnings.warn(
                f"scalewise: {type(self._model).__name__} computed losses that its parse_losses "
                "has not seen. scalewise records them there: without that call the weights do not "
                "change, and weights of whole levels have no effect. Call parse_losses on every "
                "step's losses, as train_step does",
                stacklevel=2,
            )
        found = plain(*args, **named)
        self._waits = self._at_work
        return found

    def _parse_weighted(self, parse: Callable[..., Any], losses: Mapping[str, Any]) -> Any:
        if not self._at_work:
            return parse(losses)
        self._waits = False
        weighted = dict(losses)
        at_work = 0
        for name, part in self._parts.items():
            seen = part.take(losses)
            if seen is None:
                continue
            at_work += 1
            total = seen.recorded
            if name not in self.balancers:
                self._make(name, numbered_levels(len(total)))
            balancer = self.balancers[name]
            if seen.positives is None and len(total) != balancer.num_groups:
                raise AttachError(
                    f"{', '.join(seen.groups)} have {len(total)} entries, but there are "
                    f"{balancer.num_groups} levels of {name!r}: these lists are not per level"
                )
            # copied, because recording may change them
            weights = F.pad(balancer.weights, (0, len(total) - balancer.num_groups), value=1.0)
            weights = weights.clone()
            balancer(total, seen.positives)
            weighted.update(part.weigh(losses, seen.groups, weights))
            self.group_losses.update(seen.groups)
            self.names[name] = list(seen.groups)
        if not at_work:
            warnings.warn(
                f"scalewise: {type(self._model).__name__} added up losses that no head with "
                "weights has computed, so the weights have no effect. If its head was replaced, "
                "detach the weights and attach them again",
                stacklevel=2,
            )
        return parse(weighted)


def numbered_levels(count: int) -> list[str]:
    """The names that `LossBalancer` gives to levels if it knows only their number."""
    return [f"level{i}" for i in range(count)]
