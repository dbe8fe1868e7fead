"""Level weights for MMDetection, and for any mmengine model with losses per level.

    custom_imports = dict(imports=["scalewise.integrations.mmengine"])
    custom_hooks = [dict(type="ScalewiseHook", scheme="rlo")]

Losses that come as lists per level are weighed where `parse_losses` adds them up; the scalar losses
of known heads by the gradients of the head's predictions. At equal weights both change no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from scalewise.default import LEVEL_SCHEME
from scalewise.integrations.attached import AttachError, own_scheme
from scalewise.integrations.mmengine_heads import Lists, count_levels, find_heads
from scalewise.integrations.mmengine_losses import ListLosses, RowLosses
from scalewise.weighting import LossBalancer, SchemeLike

if TYPE_CHECKING:
    Hook = object
else:
    from mmengine.hooks import Hook

KEY = "scalewise"  # of the weighting state in a checkpoint
State = dict[str, dict[str, Tensor]]


class LevelWeights:
    """Weighs the level losses of one model; made by `attach`.

    Attributes:
        balancers: by set of levels: "dense", "rpn", or "named" for `losses=`, which is there from
            the first step on.
        level_losses: the last unweighted losses by set of levels and name, detached, float32 [n].
    """

    def __init__(
        self, model: Any, parts: Mapping[str, ListLosses | RowLosses], settings: dict[str, Any]
    ) -> None:
        self.balancers: dict[str, LossBalancer] = {}
        self.level_losses: dict[str, dict[str, Tensor]] = {}
        self._model = model
        self._parts = dict(parts)
        self._settings = settings
        self._waiting: State = {}
        self._parse = model.parse_losses

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights in force, float32 [n] by set of levels."""
        return {name: balancer.weights for name, balancer in self.balancers.items()}

    def detach(self) -> None:
        """Give the model back as it was."""
        if "parse_losses" in vars(self._model):
            del self._model.parse_losses
            for part in self._parts.values():
                if isinstance(part, RowLosses):
                    part.disconnect()

    def state_dict(self) -> State:
        """The balancers' states by set of levels: tensors on the CPU."""
        return self._waiting | {
            name: {key: value.cpu().clone() for key, value in balancer.state_dict().items()}
            for name, balancer in self.balancers.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from a saved state.

        Raises:
            AttachError: it is of another scheme, set of levels or number of levels.
        """
        if set(state) != set(self._parts):
            raise AttachError(
                f"the checkpoint weighs {sorted(state)}, this model {sorted(self._parts)}; "
                "resume with the same model and losses="
            )
        self._waiting = {name: dict(own) for name, own in state.items()}
        for name, balancer in self.balancers.items():
            self._restore(name, balancer)

    def make(self, name: str, levels: int) -> None:
        """Make the balancer of a set of levels."""
        settings = dict(self._settings)
        scheme = own_scheme(settings.pop("scheme"))
        try:
            balancer = LossBalancer(levels, scheme, **settings)
        except ValueError as error:
            raise AttachError(str(error)) from None
        balancer = balancer.to(next(self._model.parameters()).device)
        self._restore(name, balancer)
        self.balancers[name] = balancer

    def _restore(self, name: str, balancer: LossBalancer) -> None:
        state = self._waiting.pop(name, None)
        if state is not None:
            try:
                balancer.load_state_dict(state)
            except (ValueError, RuntimeError) as error:
                raise AttachError(f"level weights of {name!r} in the checkpoint: {error}") from None

    def connect(self) -> None:
        """Take the place of the model's `parse_losses`."""
        self._model.parse_losses = self._parse_weighted
        for name, part in self._parts.items():
            if isinstance(part, RowLosses):
                part.connect(self.balancers[name])

    def _parse_weighted(self, losses: Mapping[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            return self._parse(losses)
        weighted = dict(losses)
        for name, part in self._parts.items():
            levels = part.levels(losses)
            total = torch.stack(list(levels.values())).sum(0)
            if name not in self.balancers:
                self.make(name, len(total))
            balancer = self.balancers[name]
            if len(total) != balancer.num_groups:
                raise AttachError(
                    f"{', '.join(levels)} have {len(total)} entries, but there are "
                    f"{balancer.num_groups} levels of {name!r}: these lists are not per level"
                )
            weights = balancer.weights.clone()  # recording may renew them
            balancer(total)
            weighted.update(part.weigh(losses, levels, weights))
            self.level_losses[name] = levels
        return self._parse(weighted)


def attach(
    model: nn.Module,
    scheme: SchemeLike = LEVEL_SCHEME,
    interval: int = 100,
    normalize: Literal["mean", "loss"] = "loss",
    accumulate: int = 1,
    seed: int = 0,
    losses: Sequence[str] = (),
) -> LevelWeights:
    """Weigh the level losses of a model from now on, in a training loop of your own.

    With mmengine's Runner use `ScalewiseHook`, which does this.

    Args:
        model: an mmengine `BaseModel`; wrapped in data parallelism or not.
        scheme: as of `LossBalancer`.
        interval: optimizer steps between two updates of the weights.
        normalize: what the weights keep, see `LossBalancer`.
        accumulate: forward passes per optimizer step.
        seed: of the scheme's random numbers.
        losses: names of the losses that are lists with one entry per level, for a model that is no
            known MMDetection detector; only these are weighed then.

    Returns:
        The weights. They are no part of the model: save their `state_dict()` yourself.

    Raises:
        AttachError: the model's level losses are not known, it has been attached before, the scheme
            trains parameters, or an argument is out of range. The model is left as it was.
    """
    inner: Any = model.module if is_model_wrapper(model) else model
    if not hasattr(inner, "parse_losses"):
        raise AttachError(
            f"{type(inner).__name__} has no parse_losses: it is no mmengine BaseModel"
        )
    if "parse_losses" in vars(inner):
        raise AttachError(
            f"parse_losses of this {type(inner).__name__} has been replaced already, by level "
            "weights (detach them first) or by something else"
        )
    if isinstance(losses, str):
        raise AttachError(f"losses={losses!r} is one string; write losses=({losses!r},)")
    settings = {
        "scheme": own_scheme(scheme),
        "interval": interval,
        "normalize": normalize,
        "accumulate": accumulate,
        "seed": seed,
    }
    if losses:
        attached = LevelWeights(inner, {"named": ListLosses(losses)}, settings)
        attached.connect()
        return attached
    heads = find_heads(inner)
    parts = {
        name: ListLosses(place.losses) if isinstance(place, Lists) else RowLosses(head, place)
        for name, (head, place) in heads.items()
    }
    attached = LevelWeights(inner, parts, settings)
    for name, (head, _) in heads.items():
        attached.make(name, count_levels(head))
    attached.connect()
    return attached


class ScalewiseHook(Hook):
    """Weighs the level losses of the model that the Runner trains.

    Logs `<set>/loss_<level>` (unweighted) and `<set>/weight_<level>` beside the Runner's scalars,
    and keeps its state in the Runner's checkpoints, from which `resume=True` goes on. Accumulation
    is read from the optimizer wrapper.

    Args:
        scheme: as of `LossBalancer`.
        interval: optimizer steps between two updates of the weights.
        normalize: what the weights keep, see `LossBalancer`.
        seed: of the scheme's random numbers.
        losses: as of `attach`.
    """

    priority = "NORMAL"

    def __init__(
        self,
        scheme: SchemeLike = LEVEL_SCHEME,
        interval: int = 100,
        normalize: Literal["mean", "loss"] = "loss",
        seed: int = 0,
        losses: Sequence[str] = (),
    ) -> None:
        self._settings: dict[str, Any] = {
            "scheme": scheme,
            "interval": interval,
            "normalize": normalize,
            "seed": seed,
            "losses": losses,
        }
        self._state: State | None = None
        self.attached: LevelWeights | None = None

    def before_train(self, runner: Any) -> None:
        """Attach, and go on from the state of a resumed checkpoint."""
        accumulate = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        attached = attach(runner.model, accumulate=accumulate, **self._settings)
        if self._state is not None:
            try:
                attached.load_state_dict(self._state)
            except AttachError:
                attached.detach()
                raise
            self._state = None
        self.attached = attached

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the last level losses and the weights."""
        if self.attached is None:
            return
        for name, losses in self.attached.level_losses.items():
            total = torch.stack(list(losses.values())).sum(0)
            table = torch.stack((total, self.attached.weights[name])).tolist()  # one read
            for kind, row in zip(("loss", "weight"), table, strict=True):
                for level, value in enumerate(row):
                    runner.message_hub.update_scalar(f"train/{name}/{kind}_{level}", value)

    def after_train(self, runner: Any) -> None:
        """Give the model back as it was; checkpoints still get the state."""
        if self.attached is not None:
            self.attached.detach()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the weighting state, plain tensors."""
        if self.attached is not None:
            checkpoint[KEY] = self.attached.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the state for `before_train` if the run is resumed, not only initialised."""
        if not runner._resume:
            return
        if KEY not in checkpoint:
            runner.logger.warning(
                "the checkpoint was saved without ScalewiseHook: level weights start anew"
            )
        self._state = checkpoint.get(KEY)


HOOKS.register_module(module=ScalewiseHook)
