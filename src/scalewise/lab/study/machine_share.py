"""Decides which part of this machine each run of a study gets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from scalewise.lab.training.config import TrainConfig
from scalewise.threads import usable_cores

THREADS = 4  # threads of a run without a GPU: more of them help little at the usual sizes


@dataclass(frozen=True)
class MachineShare:
    """One job's part of the machine.

    Attributes:
        environment: environment variables that limit its threads and select its GPUs.
        workers: number of loader processes if the plan says "auto"; None lets the run decide.
        gpu_memory: the part of its GPU's memory that it may use, above 0 and at most 1.
    """

    environment: dict[str, str]
    workers: int | None
    gpu_memory: float


def share_of_machine(slot: int, jobs: int, devices: int = 1) -> MachineShare:
    """Give one of `jobs` processes its part of the cores and GPUs.

    If there are more jobs than GPUs, several jobs share a GPU, and each gets an equal part of its
    memory, so that no job can take what another one needs.

    Args:
        slot: number of the process, 0 to `jobs` - 1.
        jobs: number of processes at the same time.
        devices: number of GPUs that each process trains on.
    """
    if jobs == 1:
        return MachineShare({}, None, 1.0)
    cores = max(1, usable_cores() // jobs)
    environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores)}
    sets = _gpu_sets(devices)
    if not sets:
        return MachineShare(environment, max(1, cores // 2), 1.0)
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(sets[slot % len(sets)])
    return MachineShare(environment, max(1, cores // 2), 1 / -(-jobs // len(sets)))


def jobs_that_fit(options: TrainConfig) -> int:
    """How many runs with these options this machine should run at the same time, at least 1.

    With GPUs: one run for each GPU, or for each `--devices` GPUs. Without GPUs, or with
    `--accelerator cpu`: one run for each four cores, or for each OMP_NUM_THREADS cores.

    Examples:
        >>> from scalewise.lab.study.machine_share import jobs_that_fit
        >>> from scalewise.lab.training.config import TrainConfig
        >>> jobs_that_fit(TrainConfig(data="my-data")) >= 1
        True
    """
    sets = [] if options.accelerator == "cpu" else _gpu_sets(devices_of_run(options))
    if sets or options.accelerator in ("gpu", "cuda", "mps"):
        return max(1, len(sets))
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    each = int(threads) if threads.isdigit() and int(threads) else THREADS
    return max(1, usable_cores() // each)


def devices_of_run(options: TrainConfig) -> int:
    """Number of GPUs that a cell with these options trains on; 1 for "auto"."""
    return max(1, options.devices) if isinstance(options.devices, int) else 1


def _gpu_sets(devices: int) -> list[list[str]]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, in sets of `devices`.

    GPUs that do not fill a set are left out; if there are too few for one set, they form one.
    """
    count = _gpu_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA ignores a user's list from the first invalid name on
    names = listed.split(",")[:count] if listed else [str(number) for number in range(count)]
    whole = max(len(names) - len(names) % devices, min(len(names), devices))
    return [names[first : first + devices] for first in range(0, whole, devices)]


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
