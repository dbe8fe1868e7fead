"""Checks before a run goes on, and the position from which it goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalewise.files import remove_leftovers
from scalewise.lab.data.split import Split
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_metrics import load_metrics
from scalewise.lab.training.run_options import identity, load_config
from scalewise.lab.training.runs import RunError


def clean(run: Path) -> None:
    """Remove files of a run that killed processes left half-written."""
    for folder in (run, run / "checkpoints"):
        remove_leftovers(folder)


def check_unfinished(run: Path) -> None:
    """Refuse a finished run; a broken `metrics.json` is written anew at the end."""
    if not (run / "metrics.json").is_file():
        return
    try:
        metrics = load_metrics(run)
        status, own = metrics["status"], identity(load_config(run))
        if metrics.get("run", own) != own:  # older versions did not note it
            raise RunError(f"{run / 'metrics.json'} is another run's")
    except RunError as error:
        print(f"{error}; it is written anew from the checkpoint", file=sys.stderr)
        return
    if status == "finished":
        raise RunError(f"{run} is finished; start a new run to train longer")


def check_tables(run: Path, groups: Sequence[str]) -> None:
    """Refuse tables to which training cannot add rows."""
    from scalewise.lab.parquet import DamagedFile
    from scalewise.lab.training.gradients import GradientLog
    from scalewise.lab.training.trace import Trace

    try:
        Trace(run / "trace.parquet", (), groups)
        GradientLog(run / "gradients.parquet", groups)
    except DamagedFile as error:
        raise RunError(
            f"{error}; put it back from a copy, or move it away: then the run goes on without its "
            "steps before the checkpoint"
        ) from None


def check_same_data(run: Path, config: TrainConfig, training: Split) -> None:
    """Refuse data that differ from those with which the run began."""
    known = runs.load_json(run / "environment.json")
    try:
        before = (known["classes"], known["images"][training.name])
    except (KeyError, TypeError):
        raise RunError(
            f"{run / 'environment.json'} is damaged: it does not say how many images "
            f"{training.name} had"
        ) from None
    if before != (list(training.classes), len(training.records)):
        raise RunError(
            f"{config.data} has changed since {run} began: it had {before[1]} training images of "
            f"{len(before[0])} classes, now it has {len(training.records)} of "
            f"{len(training.classes)}; restore it, or start a new run"
        )


def position(found: dict[str, Any], path: Path, batches: int, devices: int) -> tuple[int, int]:
    """Epoch and batch at which a checkpointed run goes on.

    Args:
        found: The checkpoint.
        path: Path of the checkpoint.
        batches: Batches of an epoch on each device.
        devices: Number of devices on which the run would go on.

    Raises:
        RunError: the run was on another number of devices, so the remaining batches and steps would
            not be those of the run that was interrupted.
    """
    try:
        loops = found["loops"]["fit_loop"]
        done = loops["epoch_loop.batch_progress"]["current"]["ready"]
        epochs = loops["epoch_progress"]["current"]
        epoch, begun = epochs["processed"], epochs["ready"]
    except (KeyError, TypeError):
        raise RunError(f"{path} cannot be resumed: it lacks the position") from None
    before = found.get("run", {}).get("devices", devices)
    if before != devices or done > batches:
        raise RunError(
            f"{path.parent.parent} was trained on "
            f"{before if before != devices else 'another number of'} device(s), and would now run "
            f"on {devices}: it would get other batches and learning rates, and would leave out "
            "images; resume it on as many devices as before, or start a new run with "
            f"--config {path.parent.parent / 'config.yaml'}"
        )
    return (epoch + 1, 0) if done >= batches and epoch < begun else (epoch, done % batches)
