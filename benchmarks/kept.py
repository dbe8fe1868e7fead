"""Reads the studies in `results/`, which keep a table of their runs but no raw records."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from scalewise.lab.study.planned_cells import Cell, cell_folder
from scalewise.lab.study.records import Record, StudyRecords, load_study
from scalewise.lab.training.runs import RunError


def kept_study(folder: Path) -> StudyRecords:
    """Read a study's plan and its finished runs.

    A run is read from its raw record if that is there, else from `runs.csv`.

    Raises:
        RunError: if `folder` is no study, or a row of its table is no run of its plan.
    """
    raw = load_study(folder)
    found = table_rows(folder) | {Cell(r.detector, r.scheme, r.seed): r for r in raw.records}
    cells = raw.plan.cells
    for cell in found.keys() - set(cells):
        raise RunError(f"{folder / 'runs.csv'} has {cell}, which study.yaml does not plan")
    records = [found[cell] for cell in cells if cell in found]
    missing = [f"{cell}: not finished" for cell in cells if cell not in found]
    return StudyRecords(raw.plan, records, missing)


def table_rows(folder: Path) -> dict[Cell, Record]:
    """The runs in a study's `runs.csv`; empty without this file."""
    path = folder / "runs.csv"
    if not path.is_file():
        return {}
    records: dict[Cell, Record] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row.pop("detector"), row.pop("scheme"), int(row.pop("seed")))
            metrics = {name: float(value) if value else math.nan for name, value in row.items()}
            records[cell] = Record(
                cell.detector, cell.scheme, cell.seed, cell_folder(folder, cell), metrics
            )
    return records
