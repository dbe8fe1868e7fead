"""Average precision after each epoch, and the run's `metrics.json`."""

from __future__ import annotations

import contextlib
import math
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
from scalewise.lab.training.checkpoints import gather
from scalewise.lab.training.recorder import GroupRecorder
from scalewise.lab.training.runs import write_json

_NAMED = 3  # damaged image files
_OF_GROUPS = ("weights", "skipped_not_finite", "skipped_outliers")


class Scoring(L.Callback):
    """Collects the detections of a validation pass, scores them, and keeps the run's history.

    Args:
        split: What is validated on.
        run: The run folder, for `metrics.json`, rewritten after each epoch, and
            `detections.parquet`, what the last validation pass found.
        recorder: Gives step times and weights.
        identity: Of the run, see `runs.identity`.

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
        self._groups: dict[str, dict[str, float]] = {name: {} for name in _OF_GROUPS}
        self._damaged: dict[str, list[str]] = {}  # split to image files

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the pass before."""
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
        pl_module.log("AP", value, sync_dist=True)  # equal on all ranks; Lightning warns without
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
        self._groups = _of_groups(pl_module)
        self._write(status)

    def write_last(self, trainer: L.Trainer, pl_module: Any, status: str) -> None:
        """Write `metrics.json` of a run that was stopped by an error, which nothing may hide.

        Where the device no longer answers, what it said last is written; where the disk does not
        take it, a line says so.
        """
        if not trainer.is_global_zero:
            return
        with contextlib.suppress(RuntimeError):
            self._groups = _of_groups(pl_module)
        self._add_damaged(_damaged(trainer))
        try:
            self._write(status)
        except (OSError, UserError) as error:
            print(f"{self.run / 'metrics.json'} is not up to date: {error}", file=sys.stderr)

    def _write(self, status: str) -> None:
        best = max(self.history, key=lambda e: -1 if math.isnan(e["AP"]) else e["AP"], default=None)
        write_json(
            self.run / "metrics.json",
            {
                "status": status,
                "run": self._identity,
                "split": self.split.name,
                "best": best,
                "last": self.history[-1] if self.history else None,
                **self._groups,
                "damaged": {
                    split: {"count": len(names), "first": names[:_NAMED]}
                    for split, names in self._damaged.items()
                },
                "history": self.history,
            },
        )

    def _add_damaged(self, found: dict[str, list[str]]) -> None:
        for split, names in found.items():
            self._damaged[split] = sorted({*self._damaged.get(split, []), *names})

    def state_dict(self) -> dict[str, Any]:
        """The history travels in the checkpoint: a resumed run knows all epochs."""
        return {"history": self.history, "damaged": self._damaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history of the checkpoint that is resumed."""
        self.history = state_dict["history"]
        self._damaged = state_dict.get("damaged", {})  # which older versions did not save


def _damaged(trainer: L.Trainer) -> dict[str, list[str]]:
    """The image files that this rank has found damaged, by split; only splits that have any."""
    loaders = (trainer.train_dataloader, trainer.val_dataloaders)
    datasets = [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]
    return {
        data.split.name: [str(path) for path in data.damaged]
        for data in datasets
        if isinstance(data, DetectionDataset | DeviceCache) and data.damaged
    }


def _of_groups(module: Any) -> dict[str, dict[str, float]]:
    """Weights and counts by the name of the group, as `metrics.json` holds them.

    The counts of what was not finite are up to the last step, though other ranks' only up to the
    last interval.
    """
    balancer = module.balancer
    values = (balancer.weights, balancer.skipped + balancer.skipped_since, balancer.outliers)
    return {
        name: dict(zip(module.detector.group_names, value.tolist(), strict=True))
        for name, value in zip(_OF_GROUPS, values, strict=True)
    }


def tell(module: Any, metrics: dict[str, float]) -> None:
    """Hand the objective to a policy that learns from validations."""
    if getattr(module.balancer.scheme, "reward", None) == "validation":
        value = metrics[objective_metric(module.config.objective)]
        if not math.isnan(value):
            module.balancer.reward(value)


def objective_metric(words: str) -> str:
    """The metric that `--objective` names: "class:cat" is "AP/cat"."""
    return f"AP/{words[6:]}" if words.startswith("class:") else words


def _gather(found: list[ImageDetections]) -> list[ImageDetections]:
    """Detections of all ranks, each image once (samplers repeat images to even out the ranks)."""
    return list({image.image_id: image for part in gather(found) for image in part}.values())
