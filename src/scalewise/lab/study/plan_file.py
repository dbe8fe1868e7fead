"""Writes plans to files and reads them back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from scalewise.errors import UsageError
from scalewise.files import make_folder, remove_leftovers
from scalewise.lab.study.plan import VARIED, GridOptions, make_plan
from scalewise.lab.study.planned_cells import Plan
from scalewise.lab.training.run_options import config_from, read_yaml, write_options
from scalewise.lab.training.runs import RunError


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
        RunError: `study` is not a study, or its plan does not fit this version.
    """
    path = study / "study.yaml"
    if not path.is_file():
        raise RunError(f"{study} is not a study: it has no study.yaml")
    values = read_yaml(path)
    try:
        grid = GridOptions(**{f.name: values.pop(f.name) for f in dataclasses.fields(GridOptions)})
        # older plans have no option "by": they weighed whole levels
        return make_plan(grid, config_from({"by": "level"} | values, path))
    except (TypeError, KeyError, AttributeError, UsageError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def extend(old: Plan, new: Plan) -> Plan:
    """Extend a study: make a plan with the cells of both plans.

    Raises:
        UsageError: the training options differ, so that the runs could not be compared.
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
            f"old ones: {'; '.join(changed)}; leave the options as they were, or start another "
            "study with --out"
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
