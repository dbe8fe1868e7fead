"""One cell of a study in its own process: `python -m scalewise.lab.study.cell CONFIG.yaml 0.25`.

The number is the part of its GPU's memory that it may take.

The process ends when its standard input closes, so that no run outlives a study that was killed and
none is trained by two processes at once.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from pathlib import Path

from scalewise.errors import UserError
from scalewise.lab.study.records import is_of, read_metrics
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import (
    RunError,
    config_from,
    identity,
    is_main_process,
    read_yaml,
)
from scalewise.threads import limit_threads, wait_passively


def run_cell(config: TrainConfig) -> None:
    """Train a run, or go on with it where it was interrupted.

    A folder without a usable checkpoint is set aside as `seed-0.broken-1`, never deleted, by the
    first of the processes that train the run.

    Args:
        config: With `out` and `name` naming the run folder.

    Raises:
        UserError: when the run cannot be trained.
    """
    from scalewise.lab.training.light import defer_torchmetrics

    defer_torchmetrics()
    from scalewise.lab.training.fit import resume, train

    folder = Path(config.out) / str(config.name)
    metrics = read_metrics(folder)
    if metrics is not None and not is_of(metrics, identity(config)):
        raise RunError(
            f"{folder / 'metrics.json'} is another run's: put back its own, or move {folder} away "
            "to begin it anew"
        )
    if metrics is not None and metrics.get("status") == "finished":
        return
    lacking = _lacking(folder)
    if lacking is None:
        resume(folder)
        return
    if folder.exists() and is_main_process():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.broken-{number}")).exists():
            number += 1
        folder.rename(aside)
        print(f"{lacking}; it is kept as {aside}, and the run begins anew", flush=True)
    # recorded is the command that repeats the run by itself
    train(config, f"scalewise train --config {shlex.quote(str(folder / 'config.yaml'))}")


def _lacking(folder: Path) -> str | None:
    """Why a run cannot go on; None where it can."""
    from scalewise.lab.training.reading import read_checkpoint

    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return f"{folder} had no checkpoint to go on from"
    try:
        read_checkpoint(path)
    except UserError as error:
        return str(error)
    return None


def _limit_gpu_memory(part: float) -> None:
    if part < 1:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(part)


def _end_with_parent() -> None:
    def wait() -> None:
        # sys.stdin would hold a lock that the interpreter needs to shut down
        while os.read(0, 1024):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Run the cell that the first argument names; 1 when it failed for a printed reason."""
    _end_with_parent()
    wait_passively(os.environ)
    limit_threads(os.environ)
    config = config_from(read_yaml(Path(sys.argv[1])), Path(sys.argv[1]))
    _limit_gpu_memory(float(sys.argv[2]))
    try:
        run_cell(config)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
