"""The processes of a data-parallel training; this module does not load torch itself."""

from __future__ import annotations

import os
import random
import socket
from typing import Any

from scalewise.errors import UserError


def is_main_process() -> bool:
    """Whether this process writes files; the other processes of a distributed run only compute.

    The run folder is made before the ranks connect, so the launcher's variables decide: those of
    torchrun and Lightning; if neither has set its own, those of SLURM for a task that srun has
    started, and those of LSF. As in Lightning, a SLURM job named "bash" or "interactive" is not a
    distributed run.
    """
    own = [name for name in ("RANK", "NODE_RANK", "LOCAL_RANK") if name in os.environ]
    if not own and "SLURM_NTASKS" in os.environ:
        interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
        own = [] if interactive else ["SLURM_PROCID"]
    elif not own:
        own = ["JSM_NAMESPACE_RANK"]
    return all(int(os.environ.get(name) or 0) == 0 for name in own)


def gather(value: Any) -> list[Any]:
    """Collect the value of each rank on every rank; one value without data parallelism."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def free_port() -> int:
    """A port of this machine that stays free until the processes of a training connect to it.

    They connect seconds later. Lightning asks the system for a port, and the system may give it to
    another program in the meantime. Systems give out ports from 32768 on, so this one is below.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise UserError("no port is free for the processes of a training: set MASTER_PORT to one")
