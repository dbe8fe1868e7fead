"""Progress on a terminal: a bar where there is one to draw on, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from scalewise.lab.data.text import printable
from scalewise.lab.training.recorder import GroupRecorder
from scalewise.lab.training.scoring import Scoring

MOST_SHOWN = 6  # weights by name; of more groups only the least and the largest


def progress_callback(kind: str, recorder: GroupRecorder, scoring: Scoring) -> Bar | Lines:
    """The display for `--progress auto|bar|plain`."""
    console = Console()
    bar = kind == "bar" or (kind == "auto" and console.is_terminal and not console.is_dumb_terminal)
    return Bar(recorder, scoring) if bar else Lines(recorder, scoring)


def describe(recorder: GroupRecorder, scoring: Scoring) -> dict[str, str]:
    """The state of a running training, as short texts by name."""
    latest = recorder.latest
    shown = {"loss": f"{latest['loss']:.3f}"} if latest else {}
    if scoring.history:
        shown["AP"] = f"{100 * scoring.history[-1]['AP']:.1f}"
    if latest:
        shown["weights"] = _weights(latest["weights"])
        if latest["action"] is not None:
            shown["action"] = latest["action"]
    return shown


def _weights(weights: dict[str, float]) -> str:
    """All weights; if there are many, only the least and the largest."""
    if len(weights) <= MOST_SHOWN:
        return " ".join(f"{printable(name)} {weight:.2f}" for name, weight in weights.items())
    least, largest = min(weights, key=weights.__getitem__), max(weights, key=weights.__getitem__)
    return (
        f"from {printable(least)} {weights[least]:.2f} "
        f"to {printable(largest)} {weights[largest]:.2f}"
    )


class Bar(RichProgressBar):
    """Lightning's rich bar with AP, the groups' weights and the current action."""

    def __init__(self, recorder: GroupRecorder, scoring: Scoring) -> None:
        super().__init__(leave=True)
        self._recorder, self._scoring = recorder, scoring

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The texts at the end of the bar."""
        return dict(describe(self._recorder, self._scoring))


class Lines(L.Callback):
    """Four lines an epoch, for logs and dumb terminals."""

    def __init__(self, recorder: GroupRecorder, scoring: Scoring) -> None:
        self._recorder, self._scoring = recorder, scoring

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, also for a resumed epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock that gives images per second."""
        self._started, self._seen = time.perf_counter(), 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print at each quarter of the epoch."""
        self._seen += len(batch.images) * trainer.world_size
        total = int(trainer.num_training_batches)
        if (batch_idx + 1) % max(1, total // 4) == 0 and trainer.is_global_zero:
            rate = self._seen / (time.perf_counter() - self._started)
            texts = describe(self._recorder, self._scoring)
            print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
                f"  step {batch_idx + 1}/{total}  {rate:.1f} images/s  "
                + "  ".join(f"{name} {text}" for name, text in texts.items()),
                flush=True,
            )
