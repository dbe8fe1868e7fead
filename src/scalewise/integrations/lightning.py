"""A Lightning callback that looks after the balancers of any LightningModule."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torch.nn.parallel import DistributedDataParallel

from scalewise.integrations.loops import (
    LoopError,
    check_balancers,
    find_balancers,
    keep_from_broadcast,
    readings,
)
from scalewise.weighting import LearnedScheme, LossBalancer

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        Callback = importlib.import_module("lightning.pytorch").Callback
    except ModuleNotFoundError:
        Callback = importlib.import_module("pytorch_lightning").Callback


class BalancerCallback(Callback):
    """Logs, checks and saves all `LossBalancer`s of a LightningModule.

    A balancer may weigh groups of positives or whole levels. Either your `training_step` calls it,
    or `scalewise.attach` has put it into the model.

    Every `log_every_n_steps` optimizer steps the trainer's loggers receive the values of
    `scalewise.integrations.loops.readings`; on the other steps nothing is copied from the device.
    Balancers that are submodules are saved with the module. Pass the others as `outside`: the
    callback moves them to the module's device and saves them in its own state. If the number of
    batches of an epoch is not a multiple of `accumulate_grad_batches`, the short window at the end
    is a step like any other: weights change between windows, never within one. In data-parallel
    training each rank keeps its own records, whatever `broadcast_buffers` says.

    Args:
        outside: the balancer that is not a submodule, or several of them by name.

    Raises:
        LoopError: when training starts, if there is no balancer, if the `accumulate` of one is not
            `accumulate_grad_batches`, if one outside has parameters, or if one was made after the
            module was set up for data parallelism.

    Examples:
        >>> import lightning as L
        >>> from scalewise.integrations.lightning import BalancerCallback
        >>> trainer = L.Trainer(callbacks=[BalancerCallback()], logger=False, accelerator="cpu")
        >>> any(isinstance(callback, BalancerCallback) for callback in trainer.callbacks)
        True
    """

    def __init__(self, outside: LossBalancer | Mapping[str, LossBalancer] | None = None) -> None:
        named = {"balancer": outside} if isinstance(outside, LossBalancer) else outside or {}
        self._outside = dict(named)
        self._balancers: dict[str, LossBalancer] = {}
        self._logged = self._stepped = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the balancers, before data parallelism is set up, and keep it off their records."""
        keep_from_broadcast(pl_module)
        self._find(pl_module)

    def _find(self, module: LightningModule) -> dict[str, LossBalancer]:
        inside = find_balancers(module)
        known = {id(balancer) for balancer in inside.values()}
        self._outside = {n: b for n, b in self._outside.items() if id(b) not in known}
        twice = inside.keys() & self._outside.keys()
        if twice:
            raise LoopError(
                f"BalancerCallback: {type(module).__name__} has a balancer {min(twice)!r} already; "
                "give the one outside another name: BalancerCallback({'name': balancer})"
            )
        self._balancers = inside | self._outside
        return inside

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse balancers that cannot work; move those outside of the module to its device."""
        inside = self._find(pl_module)
        if not self._balancers:
            raise LoopError(
                f"BalancerCallback: there is no LossBalancer among the submodules of "
                f"{type(pl_module).__name__}; pass one from elsewhere: BalancerCallback(balancer)"
            )
        for name, balancer in self._outside.items():
            if isinstance(balancer.scheme, LearnedScheme):
                raise LoopError(
                    f"BalancerCallback: balancer {name!r} has parameters of its own "
                    f"({balancer.scheme.name}); make it a submodule, so that they are trained"
                )
            balancer.to(pl_module.device)
        wrapped = trainer.model
        if isinstance(wrapped, DistributedDataParallel):
            known = cast(Any, pl_module)._ddp_params_and_buffers_to_ignore
            late = [name for name in inside if f"{name}.weights" not in known]
            if late:
                raise LoopError(
                    f"BalancerCallback: balancer {late[0]!r} was made in setup() or "
                    "configure_model(); make it in __init__, so that data parallelism leaves its "
                    "records alone"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimizer steps from where training begins or goes on."""
        self._logged = self._stepped = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check the accumulation, which a scheduler may change in any epoch."""
        if pl_module.automatic_optimization:
            check_balancers(
                self._balancers, trainer.accumulate_grad_batches, "accumulate_grad_batches"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the balancers' windows after an optimizer step; log when the trainer logs."""
        every, step = cast(Any, trainer).log_every_n_steps, trainer.global_step
        if step != self._stepped and pl_module.automatic_optimization:
            for balancer in self._balancers.values():
                balancer.close_window()
        self._stepped = step
        if every and step // every > self._logged // every:
            self._logged = step
            if trainer.is_global_zero and trainer.loggers:
                values = readings(self._balancers)
                for logger in trainer.loggers:
                    logger.log_metrics(values, step - 1)  # Lightning counts steps from 0

    def state_dict(self) -> dict[str, Any]:
        """The state of the balancers outside of the module."""
        return {name: balancer.state_dict() for name, balancer in self._outside.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the balancers outside of the module.

        Raises:
            LoopError: the saved ones have other names.
        """
        if state_dict.keys() != self._outside.keys():
            raise LoopError(
                f"BalancerCallback: the checkpoint has balancers {sorted(state_dict)} outside of "
                f"the module, this run {sorted(self._outside)}; give them under the saved names"
            )
        for name, balancer in self._outside.items():
            balancer.load_state_dict(state_dict[name])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Warn about a checkpoint without the balancers outside of the module."""
        if self._outside and self.state_key not in checkpoint["callbacks"]:
            warnings.warn(
                f"BalancerCallback: the checkpoint has no state of {sorted(self._outside)}; their "
                "weights start anew",
                stacklevel=2,
            )
