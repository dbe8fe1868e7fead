"""One of two processes that train together; it can be killed at a given step."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalewise.detectors import Batch
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.module import DetectionModule


def work(rank: int, port: int, config: TrainConfig, run: Path | None, last: int | None) -> None:
    """Train as one of two ranks.

    Args:
        rank: 0 or 1.
        port: port at which the two processes meet.
        config: options of a new run.
        run: the run to resume, None for a new one.
        last: number (from 1) of the step of this attempt that kills the process, None for none.
    """
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    step, steps = DetectionModule.training_step, iter(range(1, 1000))

    def killed(self: DetectionModule, batch: Batch, index: int) -> Tensor:
        if next(steps) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    changed: Any = DetectionModule
    changed.training_step = killed
    if run is None:
        train(config)
    else:
        resume(run)
