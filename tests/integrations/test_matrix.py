"""Every framework and model family x every check; `benchmarks/support.py` makes a table of it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from checks import CHECKS, LEVELS, run_two_processes, same_weights, two_processes
from subject import Subject

MODULES = ("torchvision_models", "own_models", "ultralytics_models", "mmdet_models")
OPTIONAL = ("torchvision", "ultralytics", "mmengine", "mmcv", "mmdet")
Note = Callable[[str, object], None]


@dataclass(frozen=True)
class Row:
    """A family whose framework is installed."""

    module: str
    key: str
    subject: Subject

    def __str__(self) -> str:
        return f"{self.subject.framework.split()[0]}-{self.subject.family}"

    def note(self, record_property: Note, check: str) -> None:
        """Say in the test report what was run."""
        for name in ("framework", "family", "way"):
            record_property(name, getattr(self.subject, name))
        record_property("check", check)


def rows() -> list[Row]:
    """All families that can be run here."""
    found = []
    for module in MODULES:
        try:
            subjects: dict[str, Subject] = importlib.import_module(module).SUBJECTS
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in OPTIONAL:
                raise
            continue
        found += [Row(module, key, subject) for key, subject in subjects.items()]
    return found


each = pytest.mark.parametrize("row", rows(), ids=str)
ranks = functools.cache(run_two_processes)


@pytest.mark.parametrize("check", CHECKS)
@each
def test_matrix(row: Row, check: str, record_property: Note) -> None:
    row.note(record_property, check)
    if check in row.subject.unable:
        pytest.skip(row.subject.unable[check])
    CHECKS[check](row.subject)


@pytest.mark.parametrize("levels", LEVELS)
@each
def test_levels(row: Row, levels: int, record_property: Note) -> None:
    row.note(record_property, f"{levels} level{'s' if levels > 1 else ''}")
    if levels not in row.subject.levels:
        pytest.skip(f"{row.subject.family} has {' or '.join(map(str, row.subject.levels))} levels")
    same_weights(row.subject, levels)


@pytest.mark.xdist_group("ranks")  # one worker starts the processes, once
@each
def test_ddp(row: Row, record_property: Note) -> None:
    row.note(record_property, "2 processes")
    two_processes(ranks(row.module)[row.key])
