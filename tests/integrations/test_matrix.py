"""Every framework and model family x every check."""

from __future__ import annotations

import functools
import importlib

import pytest
from checks import CHECKS, LEVELS, run_two_processes, same_weights, two_processes
from subject import Subject

MODULES = ("torchvision_models",)


def found() -> list[tuple[str, str, Subject]]:
    """Module, key and subject of every family whose framework is installed."""
    rows = []
    for module in MODULES:
        try:
            subjects = importlib.import_module(module).SUBJECTS
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in ("ultralytics", "torchvision"):
                raise
            continue
        rows += [(module, key, subject) for key, subject in subjects.items()]
    return rows


ROWS = found()
IDS = [f"{subject.framework.split()[0]}-{subject.family}" for _, _, subject in ROWS]
each = pytest.mark.parametrize(("module", "key", "subject"), ROWS, ids=IDS)


@pytest.mark.parametrize("check", CHECKS)
@each
def test_matrix(module: str, key: str, subject: Subject, check: str) -> None:
    CHECKS[check](subject)


@pytest.mark.parametrize("levels", LEVELS)
@each
def test_levels(module: str, key: str, subject: Subject, levels: int) -> None:
    if levels not in subject.levels:
        pytest.skip(f"{subject.family} has {subject.levels} levels")
    same_weights(subject, levels)


_ranks = functools.cache(run_two_processes)


@each
def test_ddp(module: str, key: str, subject: Subject) -> None:
    two_processes(subject, _ranks(module)[key])
