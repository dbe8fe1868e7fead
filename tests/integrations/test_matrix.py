"""Every check for every framework and model family; `benchmarks/support.py` makes its table."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from checks import CHECKS, LEVELS, run_two_processes, same_weights, two_processes, weighs
from subject import Subject

import scalewise as sw
from scalewise.integrations.options import KINDS

MODULES = (
    "torchvision_models",
    "own_models",
    "ultralytics_models",
    "mmdet_models",
    "detr_models",
)
OPTIONAL = ("torchvision", "ultralytics", "mmengine", "mmcv", "mmdet", "transformers")
Note = Callable[[str, object], None]


@dataclass(frozen=True)
class Row:
    """A model family with an installed framework."""

    module: str
    key: str
    subject: Subject

    def __str__(self) -> str:
        return f"{self.subject.framework.split()[0]}-{self.subject.family}"

    def note(self, record_property: Note, check: str) -> None:
        """Write into the test report what is run."""
        for name in ("framework", "family", "way"):
            record_property(name, getattr(self.subject, name))
        record_property("check", check)


def rows() -> list[Row]:
    """All families with an installed framework."""
    found = []
    for module in MODULES:
        try:
            subjects: dict[str, Subject] = importlib.import_module(module).SUBJECTS
        except pytest.skip.Exception:  # the module skips without its framework
            continue
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in OPTIONAL:
                raise
            continue
        found += [Row(module, key, subject) for key, subject in subjects.items()]
    return found


ROWS = rows()
each = pytest.mark.parametrize("row", ROWS, ids=str)
ranks = functools.cache(run_two_processes)


@pytest.mark.parametrize(
    ("row", "by"),
    [
        pytest.param(row, by, id=f"{row}-{by}")
        for by in KINDS
        for row in ROWS
        if by in row.subject.by
    ],
)
def test_by(row: Row, by: str, record_property: Note) -> None:
    row.note(record_property, f"by {by}")
    weighs(row.subject, by)


@pytest.mark.parametrize("check", CHECKS)
@each
def test_matrix(row: Row, check: str, record_property: Note) -> None:
    row.note(record_property, check)
    if check in row.subject.unable:
        pytest.skip(row.subject.unable[check])
    for by in row.subject.main:
        CHECKS[check](row.subject, by)


@pytest.mark.parametrize("levels", LEVELS)
@each
def test_levels(row: Row, levels: int, record_property: Note) -> None:
    row.note(record_property, f"{levels} level{'s' if levels > 1 else ''}")
    if "level" not in row.subject.by:
        pytest.skip(f"{row.subject.family} has no levels")
    if levels not in row.subject.levels:
        pytest.skip(f"{row.subject.family} has {' or '.join(map(str, row.subject.levels))} levels")
    same_weights(row.subject, levels, "level")


@pytest.mark.xdist_group("ranks")  # so that only one worker starts the processes
@each
def test_ddp(row: Row, record_property: Note) -> None:
    row.note(record_property, "2 processes")
    for seen in ranks(row.module)[row.key].values():
        two_processes(seen)


@pytest.mark.parametrize("module", [m for m in MODULES if m != "own_models"])
def test_one_call_attaches_and_another_detaches(module: str) -> None:
    row = next((row for row in ROWS if row.module == module), None)
    if row is None:
        pytest.skip("its framework is not installed")
    subject = row.subject
    model, plain = (subject.make(subject.levels[0], 0) for _ in range(2))
    data = subject.batch((3, 1), 1)
    attached = sw.attach(model, by="class", scheme=sw.RandomWeights(), interval=1)
    subject.step(model, data)
    (weights,) = attached.weights.values()
    assert (weights != 1).any()
    assert all(len(groups) == len(weights) + 1 for groups in attached.group_losses.values())
    sw.detach(model)
    for mine, own in zip(subject.step(model, data), subject.step(plain, data), strict=True):
        assert list(mine) == list(own)
        assert all(torch.equal(mine[name], own[name]) for name in own)
