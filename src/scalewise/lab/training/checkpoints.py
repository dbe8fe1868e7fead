"""Checkpoints: written whole, read with care, and the same wherever their run lies."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import distributed

from scalewise.files import whole
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.reading import FREE
from scalewise.lab.training.runs import RunError


def checkpoint_callbacks(run: Path, config: TrainConfig) -> list[ModelCheckpoint]:
    """What keeps `best.ckpt` and `last.ckpt`."""
    fixed: dict[str, Any] = {"dirpath": run / "checkpoints", "enable_version_counter": False}
    callbacks: list[ModelCheckpoint] = [
        Placed(**fixed, filename="best", monitor="AP", mode="max"),
        Placed(**fixed, filename="last", every_n_epochs=1, save_on_train_epoch_end=True),
    ]
    if config.checkpoint_every:
        callbacks.append(
            MidEpoch(**fixed, filename="last", every_n_train_steps=config.checkpoint_every)
        )
    return callbacks


class Placed(ModelCheckpoint):
    """Remembers its files by their names, so that a run may be moved or renamed.

    Lightning keeps full paths, and forgets which epoch was the best where they do not fit.
    """

    @property
    def state_key(self) -> str:
        """As older versions saved it."""
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    def state_dict(self) -> dict[str, Any]:
        """Names of the files, without their folder."""
        return _renamed(super().state_dict(), _file_name) | {"dirpath": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the names as those of files in this run, whatever folder was saved with them."""
        folder = str(self.dirpath)
        here = _renamed(state_dict, lambda path: str(Path(folder) / _file_name(path)))
        super().load_state_dict(here | {"dirpath": folder})
        self.current_score = state_dict.get("current_score")  # which Lightning leaves out


class MidEpoch(Placed):
    """Checkpoints between optimizer steps, but none after an epoch's last one.

    A run that goes on from there would leave out the epoch's validation. The checkpoint of the
    epoch follows right after that. None is made within an accumulation window either, as Lightning
    does after a resume: the gradients added up so far are not part of a checkpoint.
    """

    _step = -1

    @property
    def state_key(self) -> str:
        """Its own."""
        return super(Placed, self).state_key

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note the optimizer steps so far."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save when it is due."""
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if trainer.global_step > self._step and not last:
            super().on_train_batch_end(trainer, *args, **kwargs)


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _renamed(state: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A state of `ModelCheckpoint` with its paths changed."""
    names = ("best_model_path", "kth_best_model_path", "last_model_path")
    paths = {name: change(state[name]) for name in names if state.get(name)}
    best = {change(path): value for path, value in state.get("best_k_models", {}).items()}
    return state | paths | {"best_k_models": best}


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are either the old one or the new one, never a part."""

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
    """Writes into each checkpoint what made it.

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


def gather(value: Any) -> list[Any]:
    """A value of each rank, on every rank; a list of one outside of data parallelism."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def position(found: dict[str, Any], path: Path, batches: int, devices: int) -> tuple[int, int]:
    """Epoch and batch at which a checkpointed run goes on.

    Args:
        found: The checkpoint.
        path: Of it.
        batches: Of an epoch, on each device.
        devices: On which the run would go on.

    Raises:
        RunError: the run was on another number of devices, so that each would take other images,
            and other steps would follow, than in the run that was interrupted.
    """
    try:
        loops = found["loops"]["fit_loop"]
        done = loops["epoch_loop.batch_progress"]["current"]["ready"]
        epochs = loops["epoch_progress"]["current"]
        epoch, begun = epochs["processed"], epochs["ready"]
    except (KeyError, TypeError):
        raise RunError(f"{path} is no checkpoint to go on from: it lacks the position") from None
    before = found.get("run", {}).get("devices", devices)
    if before != devices or done > batches:
        raise RunError(
            f"{path.parent.parent} was trained on "
            f"{before if before != devices else 'another number of'} device(s), and would go on on "
            f"{devices}: the batches, and the learning rate at each, would be others and images "
            "would be left out; resume it on as many devices as before, or start a new run with "
            f"--config {path.parent.parent / 'config.yaml'}"
        )
    return (epoch + 1, 0) if done >= batches and epoch < begun else (epoch, done % batches)
