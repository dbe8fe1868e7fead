"""Checks a run before it is resumed, and finds the position at which it continues."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalewise.files import remove_leftovers
from scalewise.lab.data.split import Split
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_metrics import is_of, load_metrics, read_metrics
from scalewise.lab.training.run_options import identity, load_config
from scalewise.lab.training.runs import RunError


def clean(run: Path) -> None:
    """Remove the half-written files that killed processes left in a run folder."""
    for folder in (run, run / "checkpoints"):
        remove_leftovers(folder)


def check_unfinished(run: Path) -> None:
    """Refuse a finished run. Print that a damaged `metrics.json` will be replaced."""
    if not (run / "metrics.json").is_file():
        return
    try:
        metrics = load_metrics(run)
        status, own = metrics["status"], identity(load_config(run))
    except RunError as error:
        print(f"{error}; it is written again from the checkpoint", file=sys.stderr)
        return
    if is_of(metrics, own) and status == "finished":
        raise RunError(f"{run} is finished; start a new run to train longer")


def check_own_metrics(run: Path, config: TrainConfig) -> None:
    """Refuse to replace the `metrics.json` of another run."""
    metrics = read_metrics(run)
    if metrics is not None and not is_of(metrics, identity(config)):
        raise RunError(
            f"{run / 'metrics.json'} belongs to another run: put the right file back, or move it "
            "away to continue from the checkpoint"
        )


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
            f"{error}; restore it from a copy, or move it away: the run then continues, "
            "without the rows of the steps before the checkpoint"
        ) from None


def check_same_data(run: Path, config: TrainConfig, training: Split) -> None:
    """Refuse data whose classes or number of training images changed since the run began."""
    known = runs.load_json(run / "environment.json")
    try:
        before = (known["classes"], known["images"][training.name])
    except (KeyError, TypeError):
        raise RunError(
            f"{run / 'environment.json'} is damaged: it does not say how many images "
            f"{training.name} had"
        ) from None
    now = (list(training.classes), len(training.records))
    if before != now:
        classes = "" if before[0] == now[0] else f"; its classes were {before[0]}, now {now[0]}"
        raise RunError(
            f"{config.data} has changed since {run} began: it had {before[1]} training images, now "
            f"it has {now[1]}{classes}; restore it, or start a new run"
        )


def position(found: dict[str, Any], path: Path, batches: int, devices: int) -> tuple[int, int]:
    """Find the epoch and the batch, from 0, at which a run continues from its checkpoint.

    Args:
        found: The checkpoint.
        path: Path of the checkpoint.
        batches: Number of batches of an epoch on each device.
        devices: Number of devices that the run would now use.

    Raises:
        RunError: the checkpoint does not hold its position; or the number of devices was different,
            so the remaining batches and steps would not be those of the interrupted run.
    """
    try:
        loops = found["loops"]["fit_loop"]
        done = loops["epoch_loop.batch_progress"]["current"]["ready"]
        epochs = loops["epoch_progress"]["current"]
        epoch, begun = epochs["processed"], epochs["ready"]
    except (KeyError, TypeError):
        raise RunError(f"{path} cannot be resumed: it does not say how far the run was") from None
    before = found.get("run", {}).get("devices", devices)
    if before != devices or done > batches:
        raise RunError(
            f"{path.parent.parent} was trained on "
            f"{before if before != devices else 'another number of'} device(s), and would now run "
            f"on {devices}: its batches and learning rates would change, and some images would be "
            "left out; resume it on the same number of devices, or start a new run with "
            f"--config {path.parent.parent / 'config.yaml'}"
        )
    return (epoch + 1, 0) if done >= batches and epoch < begun else (epoch, done % batches)
