"""Average precision after each epoch, and the run's `metrics.json`."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from scalewise.errors import UserError
from scalewise.lab.data.dataset import DetectionDataset
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.split import Split
from scalewise.lab.detectors.batch import Batch
from scalewise.lab.evaluation import ImageDetections, to_original
from scalewise.lab.evaluation.scores import score
from scalewise.lab.evaluation.stored import write_detections
from scalewise.lab.training.objective import tell
from scalewise.lab.training.ranks import gather
from scalewise.lab.training.recorder import GroupRecorder
from scalewise.lab.training.run_metrics import (
    OF_GROUPS,
    damaged_images,
    figures_of_groups,
    write_metrics,
)


class Scoring(L.Callback):
    """Collects the detections of a validation pass, scores them, and keeps the run's history.

    Args:
        split: The split that is validated on.
        run: The run folder, for `metrics.json` (written anew after each epoch) and
            `detections.parquet` (what the last validation pass found).
        recorder: Gives step times and weights.
        identity: What identifies the run, see `run_options.identity`.

    Attributes:
        history: One dict an epoch: "epoch", "seconds", "step_seconds" and the metrics.
    """

    def __init__(
        self, split: Split, run: Path, recorder: GroupRecorder, identity: dict[str, Any]
    ) -> None:
        self.split = split
        self._identity = identity
        self.run = run
        self.recorder = recorder
        self.history: list[dict[str, float]] = []
        self._found: list[ImageDetections] = []
        self._groups: dict[str, dict[str, float]] = {name: {} for name in OF_GROUPS}
        self._damaged: dict[str, list[str]] = {}  # image files by split

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the previous pass."""
        self._found, self._started = [], time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's detections, in pixels of the original images."""
        self._found += to_original(outputs["detections"], batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Score the pass and tell the loggers and the other callbacks."""
        found = _gather(self._found)
        metrics = score(self.split, found)
        if trainer.is_global_zero:
            write_detections(self.run / "detections.parquet", found)
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"val/{name}": value for name, value in metrics.items()}, trainer.global_step
            )
        value = torch.tensor(metrics["AP"], dtype=torch.float32).nan_to_num()
        pl_module.log("AP", value, sync_dist=True)  # only avoids a warning: all ranks agree
        tell(pl_module, metrics)
        self.history.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "validation_seconds": time.perf_counter() - self._started,
                **metrics,
            }
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the epoch's record and write it."""
        if self.history:
            self.history[-1].setdefault("step_seconds", self.recorder.step_seconds)
        for found in gather(_damaged(trainer)):  # before rank 0 alone writes
            self._add_damaged(found)
        self.write(trainer, pl_module, "running")

    def write(self, trainer: L.Trainer, pl_module: Any, status: str) -> None:
        """Write `metrics.json`; rank 0 only."""
        if not trainer.is_global_zero:
            return
        self._groups = figures_of_groups(pl_module)
        self._write(status)

    def write_last(self, trainer: L.Trainer, pl_module: Any, status: str) -> None:
        """Write `metrics.json` of a run that was stopped by an error, without hiding that error.

        If the device no longer answers, its last figures are written. If the file cannot be
        written, a line says so.
        """
        if not trainer.is_global_zero:
            return
        with contextlib.suppress(RuntimeError):
            self._groups = figures_of_groups(pl_module)
        self._add_damaged(_damaged(trainer))
        try:
            self._write(status)
        except (OSError, UserError) as error:
            print(f"{self.run / 'metrics.json'} is not up to date: {error}", file=sys.stderr)

    def _write(self, status: str) -> None:
        figures = {
            "run": self._identity,
            "split": self.split.name,
            **self._groups,
            "damaged": damaged_images(self._damaged),
        }
        write_metrics(self.run, status, self.history, figures)

    def _add_damaged(self, found: dict[str, list[str]]) -> None:
        for split, names in found.items():
            self._damaged[split] = sorted({*self._damaged.get(split, []), *names})

    def state_dict(self) -> dict[str, Any]:
        """Put the history into the checkpoint, so that a resumed run knows all epochs."""
        return {"history": self.history, "damaged": self._damaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history of the checkpoint that is resumed."""
        self.history = state_dict["history"]
        self._damaged = state_dict.get("damaged", {})  # which older versions did not save


def _damaged(trainer: L.Trainer) -> dict[str, list[str]]:
    """The image files that this rank found damaged, by split; splits without any are left out."""
    loaders = (trainer.train_dataloader, trainer.val_dataloaders)
    datasets = [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]
    return {
        data.split.name: [str(path) for path in data.damaged]
        for data in datasets
        if isinstance(data, DetectionDataset | DeviceCache) and data.damaged
    }


def _gather(found: list[ImageDetections]) -> list[ImageDetections]:
    """Detections of all ranks, each image once (some images are repeated, see `run_loaders`)."""
    return list({image.image_id: image for part in gather(found) for image in part}.values())
