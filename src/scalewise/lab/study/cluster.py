"""Runs the cells of a study on a Ray cluster."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from scalewise.errors import UserError
from scalewise.lab.study.cell import run_cell
from scalewise.lab.study.planned_cells import cell_config
from scalewise.lab.study.records import read_record
from scalewise.lab.training.config import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    from scalewise.lab.study.local import Report
    from scalewise.lab.study.planned_cells import Cell, Plan

RETRIES = 3


def run_on_ray(study: Path, plan: Plan, cells: list[Cell], address: str, report: Report) -> None:
    """Run cells as Ray tasks, each in a fresh worker process.

    If a worker dies, Ray replaces it up to three times, and the run continues from its last
    checkpoint. The study folder must be on storage that all machines share, and the data set must
    have the same path on each machine.

    Args:
        study: The study folder.
        plan: Its plan.
        cells: The cells to run, in order.
        address: Address of the cluster, or "local" to start one on this machine.
        report: Called when a cell is given to the cluster, finishes or fails.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--ray needs Ray: pip install 'scalewise[ray]'") from None
    study = study.resolve()
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--ray {address}: no cluster answers there: {error}") from None
    try:
        resources: dict[str, float] = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        slots = max(1, gpus or int(resources.get("CPU", 1)))
        task = ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_calls=1, max_retries=RETRIES)(
            _cell_task
        )
        waiting = list(cells)
        pending: dict[Any, Cell] = {}
        while waiting or pending:
            while waiting and len(pending) < slots:
                cell = waiting.pop(0)
                config = dataclasses.asdict(cell_config(study, plan, cell))
                pending[task.remote(config)] = cell
                report(cell, None)
            done, _rest = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(done[0])
            try:
                reason = ray.get(done[0])
            except ray.exceptions.RayError as error:
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
            record = read_record(study, cell)
            report(cell, record if reason is None and record is not None else reason or "no record")
    finally:
        ray.shutdown()


def _cell_task(options: dict[str, Any]) -> str | None:
    """Train one cell in the worker. Returns None, or the reason why it failed."""
    try:
        run_cell(TrainConfig(**options))
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return None
