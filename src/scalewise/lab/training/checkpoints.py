"""Checkpoints: written whole, with the options and classes of the run that made them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from scalewise.files import whole
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.reading import FREE


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints so that a file is either the old one or the new one, never a part."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write one, see `files.whole`.

        Raises:
            WriteError: the system refused.
        """
        path = Path(path)
        with contextlib.suppress(OSError):  # `whole` says why there is no folder
            path.parent.mkdir(exist_ok=True)
        with whole(path) as aside, aside.open("wb") as file:
            torch.save(checkpoint, file)


class RunFacts(L.Callback):
    """Writes into each checkpoint which run made it.

    Args:
        config: Options of the run.
        classes: Names of its classes.
    """

    def __init__(self, config: TrainConfig, classes: Sequence[str]) -> None:
        options = dataclasses.asdict(config)
        self._config = {name: value for name, value in options.items() if name not in FREE}
        self._classes = list(classes)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts; called on every rank."""
        checkpoint["run"] = {
            "config": self._config,
            "classes": self._classes,
            "devices": trainer.world_size,
        }
