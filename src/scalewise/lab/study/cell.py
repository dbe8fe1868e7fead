"""One cell of a study in its own process: `python -m scalewise.lab.study.cell CONFIG.yaml 0.25`.

The number is the part of its GPU's memory that it may use.

The process ends when its standard input closes. So if the study is killed, its runs end too, and no
run is ever trained by two processes at once.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from pathlib import Path

from scalewise.errors import UserError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.ranks import is_main_process
from scalewise.lab.training.run_metrics import is_of, read_metrics
from scalewise.lab.training.run_options import config_from, identity, read_yaml
from scalewise.lab.training.runs import RunError
from scalewise.threads import limit_threads, wait_briefly


def run_cell(config: TrainConfig) -> None:
    """Train a run, or continue it where it was interrupted.

    An existing folder without a usable checkpoint is never deleted: the main process of the run
    renames it, for example to `seed-0.broken-1`, and the run starts again.

    Args:
        config: The options of the run; `out` and `name` give the run folder.

    Raises:
        UserError: the run cannot be trained.
    """
    from scalewise.lab.training.light import defer_torchmetrics

    defer_torchmetrics()
    from scalewise.lab.training.fit import resume, train

    folder = Path(config.out) / str(config.name)
    metrics = read_metrics(folder)
    if metrics is not None and not is_of(metrics, identity(config)):
        raise RunError(
            f"{folder / 'metrics.json'} belongs to another run: put the right file back, or move "
            f"{folder} away to start the run again"
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
        print(f"{lacking}; the folder is kept as {aside}, and the run starts again", flush=True)
    # the run records this command, which repeats it outside of the study
    train(config, f"scalewise train --config {shlex.quote(str(folder / 'config.yaml'))}")


def _lacking(folder: Path) -> str | None:
    """Why a run cannot be continued; None if it can."""
    from scalewise.lab.training.reading import read_checkpoint

    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return f"{folder} had no checkpoint to continue from"
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
        # do not read sys.stdin: it holds a lock that the interpreter needs to shut down
        while os.read(0, 1024):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Run the cell that the first argument names. Returns 1 if it failed, with a printed reason."""
    _end_with_parent()
    wait_briefly(os.environ)
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
