"""When checkpoints are made, and how they stay valid when their run is moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from scalewise.lab.training.config import TrainConfig


def checkpoint_callbacks(run: Path, config: TrainConfig) -> list[ModelCheckpoint]:
    """The callbacks that keep `best.ckpt` and `last.ckpt`."""
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

    Lightning keeps full paths, and if they no longer fit it forgets which epoch was the best.
    """

    @property
    def state_key(self) -> str:
        """The key under which older versions saved the state."""
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    def state_dict(self) -> dict[str, Any]:
        """Names of the files, without their folder."""
        return _renamed(super().state_dict(), _file_name) | {"dirpath": None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look for the named files in this run, whatever folder was saved with them."""
        folder = str(self.dirpath)
        here = _renamed(state_dict, lambda path: str(Path(folder) / _file_name(path)))
        super().load_state_dict(here | {"dirpath": folder})
        self.current_score = state_dict.get("current_score")  # which Lightning leaves out


class MidEpoch(Placed):
    """Checkpoints between optimizer steps, but none after an epoch's last one.

    A run that goes on from a checkpoint right after the last step would leave out the epoch's
    validation; the epoch has its own checkpoint after the validation. None is made within an
    accumulation window either, as Lightning would after a resume: a checkpoint does not hold the
    gradients that were added up so far.
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
