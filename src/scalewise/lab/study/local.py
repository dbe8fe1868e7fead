"""Runs the cells of a study on this machine, each in its own process."""

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
from scalewise.lab.study.machine_share import devices_of_run, share_of_machine
from scalewise.lab.study.planned_cells import Cell, Plan, cell_config, cell_log
from scalewise.lab.study.records import Record, read_record

# With these the processes of one training find each other; each run must set its own.
_MEETING = ("MASTER_ADDR", "MASTER_PORT")

Report = Callable[[Cell, "Record | str | None"], None]
"""Called for each cell: with None when it starts, and then with its record or, if it failed, the
reason."""


GRACE = 20.0  # seconds that interrupted runs get to end by themselves


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
    """Run cells, `jobs` at a time. If one fails, the others still run.

    Args:
        study: The study folder.
        plan: Its plan.
        cells: The cells to run, in order.
        jobs: Number of processes at the same time, which share the cores and the GPUs.
        report: Called when a cell starts, finishes or fails.
        tick: Called about twice a second.

    Raises:
        KeyboardInterrupt: it was interrupted, and all processes have ended. Finished runs are kept;
            the next call continues the others from their last checkpoint.
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
        # a terminal interrupts the runs too, and they need time for a last checkpoint
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
    """The record of a cell whose process has ended, or the reason why there is none."""
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
