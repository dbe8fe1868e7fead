"""Reads the finished runs of a study as records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalewise.lab.study.plan_file import load_plan
from scalewise.lab.study.planned_cells import Cell, Plan, cell_folder
from scalewise.lab.training.run_metrics import is_of, load_metrics, read_metrics
from scalewise.lab.training.runs import RunError


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        detector: Its detector.
        scheme: Its scheme, as `--scheme` takes it.
        seed: Its seed.
        folder: Its run folder.
        metrics: Metrics of the last epoch, by name: AP, AP50, ... in 0..1, NaN where undefined, and
            times. The best epoch is not used: choosing it on the evaluation split would favour
            noisy runs.
    """

    detector: str
    scheme: str
    seed: int
    folder: Path
    metrics: dict[str, float]


@dataclass(frozen=True)
class StudyRecords:
    """A study: its plan and its finished runs.

    Attributes:
        plan: The plan.
        records: The finished runs, in the plan's order.
        missing: One line for each run that is not finished.
    """

    plan: Plan
    records: list[Record]
    missing: list[str]


def load_study(folder: Path) -> StudyRecords:
    """Read a study's plan and its finished runs.

    Raises:
        RunError: `folder` is not a study.
    """
    plan = load_plan(folder)
    records, missing = [], []
    for cell in plan.cells:
        record = read_record(folder, cell)
        if record is None:
            missing.append(f"{cell}: {why_missing(folder, cell)}")
        else:
            records.append(record)
    return StudyRecords(plan, records, missing)


def read_record(study: Path, cell: Cell) -> Record | None:
    """The record of a cell; None if its run is absent, unfinished, damaged or of another cell."""
    folder = cell_folder(study, cell)
    metrics = read_metrics(folder)
    if metrics is None or metrics.get("status") != "finished" or not is_of(metrics, vars(cell)):
        return None
    if "AP" not in (metrics.get("last") or {}):
        return None
    last = {k: math.nan if v is None else float(v) for k, v in metrics["last"].items()}
    return Record(cell.detector, cell.scheme, cell.seed, folder, last)


def why_missing(study: Path, cell: Cell) -> str:
    """Why there is no record of a cell, in a few words."""
    path = cell_folder(study, cell) / "metrics.json"
    if not path.is_file():
        return "not finished"
    try:
        metrics = load_metrics(path.parent)
    except RunError as error:
        return str(error)
    return "not finished" if is_of(metrics, vars(cell)) else f"{path} belongs to another run"


def run_seconds(metrics: dict[str, Any], accumulate: int) -> float:
    """Seconds that training and validation took in all epochs of a run.

    Args:
        metrics: Content of its `metrics.json`.
        accumulate: Number of batches per optimizer step.
    """
    total, before = 0.0, 0
    for epoch in metrics.get("history") or []:
        step = epoch.get("step") or before
        total += (step - before) * accumulate * (epoch.get("step_seconds") or 0.0)
        total += epoch.get("validation_seconds") or 0.0
        before = step
    return total
