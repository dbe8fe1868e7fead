"""Records what happens in each group, for the trace, the logs and the progress display."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from scalewise.errors import UserError
from scalewise.lab.training.gradients import GradientLog
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.trace import Trace, TraceInterval
from scalewise.lab.training.trace_reading import means_and_last
from scalewise.weighting import LossBalancer


class GroupRecorder(L.Callback):
    """Writes to the trace at every step, and to the loggers every `every` steps.

    Args:
        run: The run folder, for `trace.parquet` and `gradients.parquet`.
        every: Steps between two copies to the host.

    Attributes:
        latest: Host values of the last copy: "loss" (unweighted, background included), "weights" by
            group, "action", "lr".
        step_seconds: Mean wall time of this epoch's training steps, data loading included.
        stopped_by: The error that ended the training; others may follow from it.
    """

    def __init__(self, run: Path, every: int) -> None:
        self.run = run
        self.every = every
        self.latest: dict[str, Any] = {}
        self.step_seconds = float("nan")
        self._trace: Trace | None = None
        self._gradients: GradientLog | None = None
        self._interval: TraceInterval | None = None
        self._paused = 0.0
        self.stopped_by: BaseException | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the trace where the run begins or goes on, and start the first epoch's clock."""
        self.on_train_epoch_start(trainer, pl_module)  # not called when resuming inside an epoch
        assert isinstance(pl_module, DetectionModule)
        self._interval = _snapshot(pl_module.balancer)
        if trainer.is_global_zero:
            groups = pl_module.detector.group_names
            self._trace = Trace(
                self.run / "trace.parquet",
                pl_module.detector.terms,
                groups,
                getattr(pl_module.balancer.scheme, "action_names", ()),
                first_step=_steps_done(trainer),
            )
            self._gradients = GradientLog(
                self.run / "gradients.parquet", groups, first_step=_steps_done(trainer)
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the epoch's clock."""
        self._started, self._steps, self._paused = time.perf_counter(), 0, 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock run on."""
        self._paused += time.perf_counter() - self._pause

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Record the step that has just been made."""
        assert isinstance(pl_module, DetectionModule)
        self._steps += 1
        if self._trace is None or self._gradients is None or self._interval is None:
            return
        step = _steps_done(trainer)
        self._trace.add(
            step - 1,
            trainer.current_epoch,
            float(trainer.optimizers[0].param_groups[-1]["lr"]),
            pl_module.losses,
            pl_module.detector.positives,
            self._interval,
        )
        if pl_module.gram is not None:
            self._gradients.add(step - 1, pl_module.gram)
        if pl_module.balancer.intervals != self._interval.number:
            self._interval = _snapshot(pl_module.balancer)
        if step % self.every == 0:
            self._log(trainer, pl_module, step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the epoch's clock."""
        if self._steps:
            elapsed = time.perf_counter() - self._started - self._paused
            self.step_seconds = elapsed / self._steps

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the trace before the checkpoint, so that it always covers it."""
        self._save()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the trace."""
        self._save()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write the trace, whatever stopped the run; an error here must not hide that reason."""
        self.stopped_by = self.stopped_by or exception
        try:
            self._save()
        except (RuntimeError, OSError, UserError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"{self.run / 'trace.parquet'} lacks the last steps: {reason}", file=sys.stderr)

    def _save(self) -> None:
        if self._trace is not None and self._gradients is not None:
            self._trace.save()
            self._gradients.save()

    def _log(self, trainer: L.Trainer, module: DetectionModule, step: int) -> None:
        assert self._trace is not None
        table = self._trace.flush()
        if table is None:
            return
        values = means_and_last(table, self._trace.terms, self._trace.groups, self._trace.actions)
        statistics = module.balancer.statistics
        for group, variance in zip(self._trace.groups, statistics.variance.tolist(), strict=True):
            values[f"variance/{group}"] = variance
        self.latest = {
            "loss": values["loss"],
            "weights": {group: values[f"weight/{group}"] for group in self._trace.groups},
            "action": table["action"][-1].as_py() if self._trace.actions else None,
            "lr": values["lr"],
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


def _steps_done(trainer: L.Trainer) -> int:
    """Forward passes of the whole run, earlier attempts included."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _snapshot(balancer: LossBalancer) -> TraceInterval:
    action = getattr(balancer.scheme, "action", None)
    probabilities = getattr(balancer.scheme, "probabilities", None)
    return TraceInterval(
        balancer.intervals,
        balancer.weights.detach().clone(),
        action.clone() if isinstance(action, torch.Tensor) else None,
        probabilities.clone() if isinstance(probabilities, torch.Tensor) else None,
    )
