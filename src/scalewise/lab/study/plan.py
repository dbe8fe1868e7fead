"""What a study is: detectors x schemes x seeds over one set of training options.

STUDY/study.yaml                            the plan
STUDY/runs/<detector>/<scheme>/seed-<k>/    an ordinary run folder for each cell
STUDY/logs/<detector>/<scheme>/seed-<k>.log what the cell printed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints

from scalewise.default import default_scheme
from scalewise.errors import UsageError
from scalewise.lab.study.planned_cells import Plan
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.option_check import check
from scalewise.lab.training.option_groups import DetectorOptions

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


def make_plan(grid: GridOptions, options: TrainConfig) -> Plan:
    """Check the grid and the options.

    Raises:
        UsageError: an option has a wrong value; the message says which values are allowed.
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
