"""What a study is: detectors x schemes x seeds over one set of training options.

STUDY/study.yaml                            the plan
STUDY/runs/<detector>/<scheme>/seed-<k>/    an ordinary run folder a cell
STUDY/logs/<detector>/<scheme>/seed-<k>.log what the cell printed
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from scalewise.default import default_scheme
from scalewise.errors import UsageError
from scalewise.files import make_folder, remove_leftovers
from scalewise.lab.training.config import DetectorOptions, TrainConfig, check
from scalewise.lab.training.runs import RunError, config_from, found_again, read_yaml, write_options

VARIED = ("detector", "scheme", "seed", "out", "name")  # set per cell, not per study


@dataclass(kw_only=True)
class GridOptions:
    """Grid.

    Args:
        schemes: Weighting schemes, comma-separated, as `scalewise train --scheme` takes them;
            "auto" is equal, the default and rlo.
        seeds: A number of seeds ("5" is 0 to 4), or the seeds ("3,7,9" or "100-104").
        detectors: Detectors, comma-separated. Default: what --detector names.
        baseline: Scheme that the others are compared with.
    """

    schemes: str | list[str] = "auto"
    seeds: int | str | list[int] = 5
    detectors: str | list[str] | None = None
    baseline: str = "equal"


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

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
        schemes: Schemes as words.
        seeds: Paired over schemes: one seed means the same initial weights, batches and
            augmentation for each of them.
        baseline: One of the schemes.
        options: Training options; those that differ between cells hold no meaning here.
    """

    detectors: tuple[str, ...]
    schemes: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    options: TrainConfig

    @property
    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that a study stopped early still holds whole pairs."""
        return [Cell(d, s, k) for k in self.seeds for d in self.detectors for s in self.schemes]


def make_plan(grid: GridOptions, options: TrainConfig) -> Plan:
    """Check the grid and the options.

    Raises:
        UsageError: naming the option, its value and what is allowed.
    """
    from scalewise.lab.training.scheme_options import parse_scheme

    check(options)
    detectors = _words("--detectors", grid.detectors or [options.detector])
    usual = f"equal,{default_scheme(options.by)},rlo"
    schemes = _words("--schemes", usual if grid.schemes == "auto" else grid.schemes)
    seeds = _seeds(grid.seeds)
    known = get_args(get_type_hints(DetectorOptions)["detector"])
    for detector in detectors:
        if detector not in known:
            raise UsageError(
                f"--detectors: no detector {detector!r}; there are: {', '.join(known)}"
            )
    for scheme in schemes:
        parse_scheme(scheme)
    if grid.baseline not in schemes:
        raise UsageError(
            f"--baseline {grid.baseline} is not among the schemes {', '.join(schemes)}: "
            f"add it to --schemes, or name one of them"
        )
    return Plan(detectors, schemes, seeds, grid.baseline, options)


def _words(option: str, value: str | Sequence[str]) -> tuple[str, ...]:
    words = [w.strip() for w in value.split(",")] if isinstance(value, str) else list(value)
    words = [word for word in words if word]
    twice = sorted({w for w in words if words.count(w) > 1})
    if not words:
        raise UsageError(f"{option} is empty")
    if twice:
        raise UsageError(f"{option} names {', '.join(twice)} twice")
    return tuple(words)


def _seeds(value: int | str | list[int]) -> tuple[int, ...]:
    text = str(value).strip("[] ")
    many = isinstance(value, list) or "," in text
    try:
        if not many and "-" in text[1:]:
            first, last = (int(part) for part in text.split("-"))
            seeds = list(range(first, last + 1))
        else:
            numbers = [int(part) for part in text.split(",") if part.strip()]
            seeds = numbers if many else list(range(numbers[0]))
    except (ValueError, IndexError):
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"--seeds {value}: give a number of seeds (5), the seeds (3,7,9) or a range (100-104)"
        )
    return tuple(seeds)


def cell_folder(study: Path, cell: Cell) -> Path:
    """The run folder of a cell."""
    return study / "runs" / cell.detector / slug(cell.scheme) / f"seed-{cell.seed}"


def cell_log(study: Path, cell: Cell) -> Path:
    """Where a cell's output goes."""
    return study / "logs" / cell.detector / slug(cell.scheme) / f"seed-{cell.seed}.log"


def slug(scheme: str) -> str:
    """A scheme's words as the name of a folder: "avw:signal=dispersion" has a colon."""
    return re.sub(r"[^A-Za-z0-9.=+-]", "_", scheme)


def cell_config(study: Path, plan: Plan, cell: Cell) -> TrainConfig:
    """The options of one run; it takes one device where --devices is "auto".

    Several runs at a time (--jobs) are what fills several devices best: their batches stay what
    they are on one, and so do their figures. Data that were named relative to a folder are found
    there by later runs too, wherever these are started.
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


def save_plan(study: Path, plan: Plan) -> None:
    """Write `study.yaml`, which `scalewise compare --config` reads back."""
    make_folder(study)
    remove_leftovers(study)
    options = {k: v for k, v in dataclasses.asdict(plan.options).items() if k not in VARIED}
    grid = {
        "detectors": list(plan.detectors),
        "schemes": list(plan.schemes),
        "seeds": list(plan.seeds),
        "baseline": plan.baseline,
    }
    write_options(study / "study.yaml", grid | options)


def load_plan(study: Path) -> Plan:
    """Read a study's plan.

    Raises:
        RunError: when `study` is no study, or its plan does not fit this version.
    """
    path = study / "study.yaml"
    if not path.is_file():
        raise RunError(f"{study} is no study: it has no study.yaml")
    values = read_yaml(path)
    try:
        grid = GridOptions(**{f.name: values.pop(f.name) for f in dataclasses.fields(GridOptions)})
        # whole levels are all there was before "by" was an option
        return make_plan(grid, config_from({"by": "level"} | values, path))
    except (TypeError, KeyError, AttributeError, UsageError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def extend(old: Plan, new: Plan) -> Plan:
    """A study that grows: the cells of both plans.

    Raises:
        UsageError: when the training options differ, since the runs could not be compared.
    """
    before, after = dataclasses.asdict(old.options), dataclasses.asdict(new.options)
    changed = [
        f"--{k} was {v} and is {after[k]}"
        for k, v in before.items()
        if k not in VARIED and v != after[k]
    ]
    if changed:
        raise UsageError(
            "this study was made with other options, so new runs could not be compared with its "
            f"old ones: {'; '.join(changed)}; leave them as they are, or start another with --out"
        )

    def union(one: tuple[Any, ...], two: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys([*one, *two]))

    return Plan(
        union(old.detectors, new.detectors),
        union(old.schemes, new.schemes),
        union(old.seeds, new.seeds),
        new.baseline,
        new.options,
    )
