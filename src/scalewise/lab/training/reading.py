"""Reads and checks checkpoints, without Lightning, so that predictions start fast."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import RunError

# Options that may differ from those a checkpoint was made with: they change no figure of the run.
FREE = {"out", "name", "data", "workers", "progress", "log_every", "checkpoint_every"}
FREE |= {"accelerator", "skip_bad", "strict"}
# A trained run may be evaluated on other machines than it was trained on.
_FREE_TRAINED = FREE | {"batch_size", "devices", "nodes", "strategy", "compile", "deterministic"}
_FREE_TRAINED |= {"train_split", "val_split", "cache"}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code that is in it.

    Raises:
        RunError: it is damaged, was not made by scalewise, or holds objects that could run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise RunError(
                f"{path} is damaged: its part {damaged} has changed since it was written"
            )
        found = torch.load(path, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except pickle.UnpicklingError:
        raise RunError(
            f"{path} is not a checkpoint of scalewise: it holds objects that could run code when "
            "they are loaded, so it was not loaded"
        ) from None
    except Exception as error:  # a damaged file can make the readers raise almost any error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} is damaged: {reason}") from None
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise RunError(f"{path} is not a checkpoint of scalewise: it holds no state of a run")
    return found


def check_origin(
    found: dict[str, Any], path: Path, config: TrainConfig, classes: Sequence[str], resuming: bool
) -> None:
    """Refuse a checkpoint of another run, and one whose run's files were changed since.

    Args:
        found: What `read_checkpoint` returned; checkpoints of older versions lack these facts.
        path: Path of the checkpoint.
        config: The options in the run's `config.yaml`.
        classes: The classes in the run's `environment.json`.
        resuming: Whether training goes on; then more options must be the same.

    Raises:
        RunError: the message says what differs.
    """
    facts = found.get("run", {})
    run = path.parent.parent
    free = FREE if resuming else _FREE_TRAINED
    own = dataclasses.asdict(config)
    differing = [
        f"--{name} {own[name]}, but the checkpoint was made with {value}"
        for name, value in facts.get("config", {}).items()
        if name in own and name not in free and not _alike(name, own[name], value)
    ]
    if differing:
        raise RunError(
            f"{path} and {run / 'config.yaml'} do not belong together: the file says "
            f"{'; '.join(differing)}. One of them was changed or is another run's: put it back"
        )
    if facts.get("classes", list(classes)) != list(classes):
        raise RunError(
            f"{path} and {run / 'environment.json'} do not belong together: the file names the "
            f"classes {list(classes)}, but the checkpoint was made with {facts['classes']}. One of "
            "them was changed or is another run's: put it back"
        )


def _alike(option: str, one: object, other: object) -> bool:
    """Whether two values of an option make the same run; "none" and "ram" give the same pixels."""
    return one == other or (option == "cache" and "device" not in (one, other))
