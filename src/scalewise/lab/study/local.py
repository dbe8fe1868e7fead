"""Runs the cells of a study on this machine, a process each."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from scalewise.files import make_folder, remove_leftovers, write_text
from scalewise.lab.study.plan import Cell, Plan, cell_config, cell_log
from scalewise.lab.study.records import Record, read_record
from scalewise.lab.training.config import TrainConfig
from scalewise.threads import usable_cores

# Where the processes of one training meet; each run finds its own place.
_MEETING = ("MASTER_ADDR", "MASTER_PORT")

Report = Callable[[Cell, "Record | str | None"], None]
"""Told of each cell: None when it starts, its record when it is done, the reason when it failed."""


THREADS = 4  # of a run without a GPU: more of them add little at the usual sizes
GRACE = 20.0  # seconds that interrupted runs have for ending by themselves


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    slot: int


def run_local(
    study: Path,
    plan: Plan,
    cells: list[Cell],
    jobs: int,
    report: Report,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run cells, `jobs` at a time; a failing one does not stop the rest.

    Args:
        study: The study folder.
        plan: Its plan.
        cells: What to run, in order.
        jobs: Processes at a time. The cores are shared out between them, and so are the GPUs.
        report: Called when a cell starts, finishes or fails.
        tick: Called about twice a second.

    Raises:
        KeyboardInterrupt: after the processes have ended; finished runs are kept, the others go on
            from their last checkpoint.
    """
    waiting, running = list(cells), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {r.slot for r in running})
                running.append(_start(study, plan, waiting.pop(0), slot, jobs))
                report(running[-1].cell, None)
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                _close(one)
                report(one.cell, outcome(study, one.cell, one.process.returncode))
            tick()
            if running:
                _wait(running[0].process, 0.5)
    except KeyboardInterrupt:
        # a terminal interrupts the runs too, which then write where they stopped
        _wait_for_all(running, GRACE)
        raise
    finally:
        for one in running:
            _close(one)
        _wait_for_all(running, 60)
        for one in running:
            one.process.kill()
            one.process.wait()


def outcome(study: Path, cell: Cell, status: int) -> Record | str:
    """The record that a cell's process left, or the reason why there is none."""
    record = read_record(study, cell)
    if status == 0 and record is not None:
        return record
    log = cell_log(study, cell)
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    if status < 0:
        last = f"killed by signal {-status}"
    else:
        last = lines[-1].strip() if lines else f"exit status {status}"
    return f"{last} (see {log})"


def _start(study: Path, plan: Plan, cell: Cell, slot: int, jobs: int) -> _Running:
    log_path = cell_log(study, cell)
    make_folder(log_path.parent)
    remove_leftovers(log_path.parent)
    share = share_of_machine(slot, jobs, devices_of_run(plan.options))
    config = cell_config(study, plan, cell)
    if config.workers == "auto" and share.workers is not None:
        config = dataclasses.replace(config, workers=share.workers)
    path = log_path.with_suffix(".yaml")
    write_text(path, yaml.safe_dump(dataclasses.asdict(config)))
    log = log_path.open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "scalewise.lab.study.cell", str(path), str(share.gpu_memory)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={k: v for k, v in os.environ.items() if k not in _MEETING} | share.environment,
    )
    return _Running(cell, process, log, slot)


@dataclass(frozen=True)
class MachineShare:
    """One job's part of the machine.

    Attributes:
        environment: variables that limit its threads and name its GPUs.
        workers: loader processes where the plan says "auto"; None leaves it to the run.
        gpu_memory: largest part of its GPU's memory, above 0 to 1.
    """

    environment: dict[str, str]
    workers: int | None
    gpu_memory: float


def share_of_machine(slot: int, jobs: int, devices: int = 1) -> MachineShare:
    """Give one of `jobs` processes its part of the cores and GPUs.

    With more jobs than GPUs several share one, with an equal part of its memory each, so that none
    can take what another needs.

    Args:
        slot: its place, 0 to `jobs` - 1.
        jobs: processes at a time.
        devices: GPUs that each of them trains on.
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
    """How many runs of these options this machine does best at a time, at least 1.

    One for each GPU, or for each `--devices` of them; without GPUs, or on the CPU by
    `--accelerator`, one for each four cores, or for as many as OMP_NUM_THREADS names.

    Examples:
        >>> from scalewise.lab.study.local import jobs_that_fit
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
    """GPUs that a cell with these options trains on; 1 where that is left open."""
    return max(1, options.devices) if isinstance(options.devices, int) else 1


def _gpu_sets(devices: int) -> list[list[str]]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, in sets of so many.

    What does not fill a set is left out, but for GPUs that are fewer than one set.
    """
    count = _gpu_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    # the list of a user ends at its first name of no GPU
    names = listed.split(",")[:count] if listed else [str(number) for number in range(count)]
    whole = max(len(names) - len(names) % devices, min(len(names), devices))
    return [names[first : first + devices] for first in range(0, whole, devices)]


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _close(one: _Running) -> None:
    assert one.process.stdin is not None
    one.process.stdin.close()
    one.log.close()


def _wait_for_all(running: list[_Running], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for one in running:
        _wait(one.process, max(0.1, deadline - time.monotonic()))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
