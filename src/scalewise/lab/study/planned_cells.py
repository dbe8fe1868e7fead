"""The cells of a study: their names, folders and training options."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import found_again


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a detector, a scheme and a seed."""

    detector: str
    scheme: str
    seed: int

    def __str__(self) -> str:
        return f"{self.detector} {self.scheme} seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A checked study.

    Attributes:
        detectors: Names of the detectors.
        schemes: Schemes, as `--scheme` takes them.
        seeds: Seeds. Each seed means the same initial weights, batches and augmentation for all
            schemes, so that runs can be compared in pairs.
        baseline: One of the schemes.
        options: Training options; those that differ between cells are ignored here.
    """

    detectors: tuple[str, ...]
    schemes: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    options: TrainConfig

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that a study that stops early still has complete pairs."""
        return [Cell(d, s, k) for k in self.seeds for d in self.detectors for s in self.schemes]


def cell_folder(study: Path, cell: Cell) -> Path:
    """The run folder of a cell."""
    return study / "runs" / cell.detector / slug(cell.scheme) / f"seed-{cell.seed}"


def cell_log(study: Path, cell: Cell) -> Path:
    """The file that gets the output of a cell."""
    return study / "logs" / cell.detector / slug(cell.scheme) / f"seed-{cell.seed}.log"


def slug(scheme: str) -> str:
    """Turn a scheme into the name of a folder, for example without the colons."""
    return re.sub(r"[^A-Za-z0-9.=+-]", "_", scheme)


def cell_config(study: Path, plan: Plan, cell: Cell) -> TrainConfig:
    """The options of one run. It uses one device if --devices is "auto".

    Several devices are better used by several runs at the same time (--jobs), since the batches and
    the results then stay the same as on one device. If the data were given by a relative path,
    later runs find them at the same place, also when they are started from another folder.
    """
    folder = cell_folder(study, cell)
    begun = (cell_folder(study, other) for other in plan.cells)
    first = next((run for run in begun if (run / "environment.json").is_file()), None)
    data = plan.options.data
    own = {
        "detector": cell.detector,
        "scheme": cell.scheme,
        "seed": cell.seed,
        "out": str(folder.parent),
        "name": folder.name,
        "data": data if first is None else found_again(data, first),
        "devices": 1 if plan.options.devices == "auto" else plan.options.devices,
    }
    return TrainConfig(**dataclasses.asdict(plan.options) | own)
