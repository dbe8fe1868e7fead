"""Stops a training that has diverged, before its state is saved."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from scalewise.errors import UserError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.module import DetectionModule

LEAST = 5  # steps: with float16 a few may fail while the scale of the loss is found


class Diverged(UserError):
    """A training that has diverged, so that no later step can repair it."""


class StopDiverged(L.Callback):
    """Checks that losses and parameters are finite, and stops the run if they are not.

    The losses of every step are kept on the device and checked every `every` steps, at each epoch's
    end and before each checkpoint, so that other steps do not wait for the device. A run is stopped
    when a parameter or a statistic of BatchNorm is not finite, or when no step of a whole interval
    of the balancer, and of at least five steps, had a finite loss.

    Args:
        run: The run folder.
        config: Its options.

    Raises:
        Diverged: the message says at which step, and what to try.
    """

    def __init__(self, run: Path, config: TrainConfig) -> None:
        self._run = run
        self._config = config
        self._every = config.log_every
        self._losses: list[Tensor] = []
        self._checked = 0  # steps
        self._sound = 0  # the last step with a finite loss

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting where the run begins or goes on."""
        self._checked = self._sound = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._losses = []

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Note the step, and check when it is time."""
        assert isinstance(pl_module, DetectionModule)
        self._losses.append(pl_module.losses)
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if len(self._losses) >= self._every or last:
            self._look(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Check before each checkpoint, so that no broken state is saved."""
        assert isinstance(pl_module, DetectionModule)
        if self._losses:
            self._look(trainer, pl_module)

    def _look(self, trainer: L.Trainer, module: DetectionModule) -> None:
        finite = torch.stack([losses.isfinite().all() for losses in self._losses])
        broken = _not_finite(module)
        steps = finite.tolist()
        self._losses = []
        first = self._checked + 1 + (steps.index(False) if False in steps else len(steps))
        sound = [place for place, fine in enumerate(steps) if fine]
        if sound:
            self._sound = self._checked + 1 + sound[-1]
        self._checked += len(steps)
        balancer = module.balancer
        period = max(LEAST, balancer.steps_of_interval * balancer.accumulate)
        silent = self._checked - self._sound >= period
        # all ranks must stop together, or some would wait for ever
        if trainer.strategy.reduce_boolean_decision(broken is not None or silent, all=False):
            raise Diverged(self._message(trainer, broken, min(first, self._sound + 1)))

    def _message(self, trainer: L.Trainer, broken: str | None, first: int) -> str:
        config = self._config
        what = f"{broken} is not finite" if broken else "no loss from there on was finite"
        ways = [f"a lower --lr (it was {config.lr:g})"]
        if config.warmup < 100:
            ways.append(f"a longer --warmup (it was {config.warmup})")
        if not config.clip_norm:
            ways.append("--clip_norm 10")
        if config.precision == "16-mixed":
            ways.append("--precision bf16-mixed or 32-true")
        last = self._run / "checkpoints" / "last.ckpt"
        kept = (
            f"{last} is the last sound checkpoint"
            if last.is_file()
            else "there was no checkpoint before it"
        )
        step = min(first, self._checked)
        epoch = (step - 1) // int(trainer.num_training_batches) + 1
        return (
            f"training diverged at step {step} (epoch {epoch}): {what}; {kept}; to try "
            f"again: scalewise train --config {self._run / 'config.yaml'} with {', or '.join(ways)}"
        )


def _not_finite(module: DetectionModule) -> str | None:
    """Name of a parameter or a statistic that is not finite; it reads from the device once."""
    named: dict[str, Tensor] = {**dict(module.named_parameters())}
    named |= {
        name: buffer
        for name, buffer in module.detector.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    }
    finite = _finite(named.values()).tolist()
    return next((name for name, fine in zip(named, finite, strict=True) if not fine), None)


def _finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether each tensor is finite throughout: bool [tensors], in a few kernel launches."""
    norms = torch._foreach_norm([tensor.detach().float() for tensor in tensors], float("inf"))
    return torch.stack(norms).isfinite()
