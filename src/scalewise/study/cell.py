"""One cell of a study in a process of its own: `python -m scalewise.study.cell CONFIG.yaml 0.25`.

The number is the part of its GPU's memory that it may take.

The process ends when its standard input closes, so that no run outlives a study that was killed and
none is trained by two processes at once.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import yaml

from scalewise.errors import UserError
from scalewise.study.records import read_metrics
from scalewise.training.config import TrainConfig


def run_cell(config: TrainConfig) -> None:
    """Train a run, or go on with it where it was interrupted.

    A folder without a usable checkpoint is set aside as `seed-0.broken-1`, never deleted.

    Args:
        config: With `out` and `name` naming the run folder.

    Raises:
        UserError: when the run cannot be trained.
    """
    from scalewise.training.fit import resume, train

    folder = Path(config.out) / str(config.name)
    metrics = read_metrics(folder)
    if metrics is not None and metrics.get("status") == "finished":
        return
    if (folder / "checkpoints" / "last.ckpt").is_file():
        resume(folder)
        return
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.broken-{number}")).exists():
            number += 1
        folder.rename(aside)
        print(f"{folder} had no checkpoint to go on from; it is kept as {aside}")
    # recorded as the run's command: the one that repeats it by itself
    sys.argv = ["scalewise", "train", "--config", str(folder / "config.yaml")]
    train(config)


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
    config = TrainConfig(**yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
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
