"""The balancers of one mmengine model, at work where `parse_losses` adds its losses up."""

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
        balancers: by set of groups: "dense", "rpn", "roi", or "named" for `losses=`, which is there
            from the first step on. `attached["rpn"]` is short for one of them.
        group_losses: the last unweighted losses, detached, by the model's own name of the loss: [n]
            of whole levels, [n + 1] of groups of positives, the last being the background's.
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
        self._waits = False  # for parse_losses, which is to add up a step's losses
        for name, (_, groups) in parts.items():
            if groups is not None:
                self._make(name, groups)
        for name, part in self._parts.items():
            if name in self.balancers:
                part.connect(self.balancers[name])
        self._taps.replace(model, "parse_losses", self._parse_weighted)
        if callable(getattr(type(model), "loss", None)):
            self._taps.replace(model, "loss", self._note_loss)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights in force, float32 [n] by set of groups."""
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
            AttachError: it is of another scheme or of other groups.
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
        """The last unweighted losses of a set's groups, all its losses together, float32 [n]."""
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

    @property
    def _at_work(self) -> bool:
        return self._model.training and torch.is_grad_enabled()

    def _note_loss(self, plain: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self._waits and self._at_work:
            warnings.warn(
                f"scalewise: losses of {type(self._model).__name__} were computed that its "
                "parse_losses has not seen, which records them: without it the weights do not "
                "move, and those of whole levels do not act. Call parse_losses on every step's "
                "losses, as train_step does",
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
            # a copy: recording may renew them
            weights = F.pad(balancer.weights, (0, len(total) - balancer.num_groups), value=1.0)
            weights = weights.clone()
            balancer(total, seen.positives)
            weighted.update(part.weigh(losses, seen.groups, weights))
            self.group_losses.update(seen.groups)
            self.names[name] = list(seen.groups)
        if not at_work:
            warnings.warn(
                f"scalewise: {type(self._model).__name__} added up losses that no head with "
                "weights has computed, so that these do not act: was its head replaced? Then "
                "detach the weights, and attach them again",
                stacklevel=2,
            )
        return parse(weighted)


def numbered_levels(count: int) -> list[str]:
    """As `LossBalancer` names levels of which it knows the number."""
    return [f"level{i}" for i in range(count)]
