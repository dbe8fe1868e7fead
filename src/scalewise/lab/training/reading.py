"""Reads and checks checkpoints, without importing Lightning, so that predictions start fast."""

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

# Options that may differ from those of the checkpoint: they do not change the results of the run.
FREE = {"out", "name", "data", "workers", "progress", "log_every", "checkpoint_every"}
FREE |= {"accelerator", "skip_bad", "strict"}
# When training is over, these may differ too: a run may be evaluated on another machine.
_FREE_TRAINED = FREE | {"batch_size", "devices", "nodes", "strategy", "compile", "deterministic"}
_FREE_TRAINED |= {"train_split", "val_split", "cache"}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code that is in it.

    Raises:
        RunError: the file is damaged, was not made by scalewise, or holds objects that could run
            code.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise RunError(f"{path} is damaged: {damaged} in it has changed since it was written")
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
        raise RunError(f"{path} is not a checkpoint of scalewise: it has no state of a run")
    return found


def check_origin(
    found: dict[str, Any], path: Path, config: TrainConfig, classes: Sequence[str], resuming: bool
) -> None:
    """Refuse a checkpoint that does not belong to the files in its run folder.

    Args:
        found: What `read_checkpoint` returned. Checkpoints of older versions hold no options and no
            classes, so they pass.
        path: Path of the checkpoint.
        config: The options in the run's `config.yaml`.
        classes: The classes in the run's `environment.json`.
        resuming: Whether training continues from it; then more options must be the same.

    Raises:
        RunError: they differ; the message says in what.
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
            f"{'; '.join(differing)}. One of them was changed or belongs to another run: put the "
            "right one back"
        )
    if facts.get("classes", list(classes)) != list(classes):
        raise RunError(
            f"{path} and {run / 'environment.json'} do not belong together: the file names the "
            f"classes {list(classes)}, but the checkpoint was made with {facts['classes']}. One of "
            "them was changed or belongs to another run: put the right one back"
        )


def _alike(option: str, one: object, other: object) -> bool:
    """Whether two values give the same run: of `--cache`, "none" and "ram" give the same pixels."""
    return one == other or (option == "cache" and "device" not in (one, other))
