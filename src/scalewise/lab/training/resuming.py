"""What is looked at before a run goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scalewise.files import remove_leftovers
from scalewise.lab.data.split import Split
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import RunError


def clean(run: Path) -> None:
    """Remove what killed processes left half-written in a run."""
    for folder in (run, run / "checkpoints"):
        remove_leftovers(folder)


def check_unfinished(run: Path) -> None:
    """Refuse a run that has come to its end; a broken `metrics.json` is written anew at the end."""
    if not (run / "metrics.json").is_file():
        return
    try:
        metrics = runs.load_metrics(run)
        status, own = metrics["status"], runs.identity(runs.load_config(run))
        if metrics.get("run", own) != own:  # older versions did not note it
            raise RunError(f"{run / 'metrics.json'} is another run's")
    except RunError as error:
        print(f"{error}; it is written anew from the checkpoint", file=sys.stderr)
        return
    if status == "finished":
        raise RunError(f"{run} is finished; start a new run to train longer")


def check_tables(run: Path, groups: Sequence[str]) -> None:
    """Refuse tables that training could not add to."""
    from scalewise.lab.parquet import DamagedFile
    from scalewise.lab.training.gradients import GradientLog
    from scalewise.lab.training.trace import Trace

    try:
        Trace(run / "trace.parquet", (), groups)
        GradientLog(run / "gradients.parquet", groups)
    except DamagedFile as error:
        raise RunError(
            f"{error}; put it back from a copy, or move it away to go on without its steps before "
            "the checkpoint"
        ) from None


def check_same_data(run: Path, config: TrainConfig, training: Split) -> None:
    """Refuse other data than the run began with."""
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
            f"{len(before[0])} classes, and has {len(training.records)} of "
            f"{len(training.classes)}; restore it, or start a new run"
        )
