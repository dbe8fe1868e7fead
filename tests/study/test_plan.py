from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalewise.errors import UsageError
from scalewise.lab.study.plan import GridOptions, make_plan
from scalewise.lab.study.plan_file import extend, load_plan, save_plan
from scalewise.lab.study.planned_cells import Cell, Plan, cell_config, cell_folder
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import RunError


def _plan(grid: GridOptions | None = None, **options: Any) -> Plan:
    return make_plan(grid or GridOptions(), TrainConfig(data="somewhere", **options))


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        ("3,7,9", (3, 7, 9)),
        ("100-102", (100, 101, 102)),
        ([4], (4,)),
        ([5, 1], (5, 1)),
    ],
)
def test_seeds_are_a_count_a_list_or_a_range(
    words: int | str | list[int], seeds: tuple[int, ...]
) -> None:
    assert _plan(GridOptions(seeds=words)).seeds == seeds


@pytest.mark.parametrize("words", ["0", "", "a", "3,3", "5-3", "-1", "1,-2"])
def test_other_seeds_are_refused_with_examples(words: str) -> None:
    with pytest.raises(UsageError, match="give a number of seeds"):
        _plan(GridOptions(seeds=words))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GridOptions(schemes="equal,rlx"), "did you mean 'rlo'"),
        (GridOptions(schemes="avw,rlo"), "add it to --schemes"),
        (GridOptions(schemes="equal,equal"), "names equal twice"),
        (GridOptions(detectors="atss,yolo"), "no detector 'yolo'"),
        (GridOptions(schemes=" , "), "--schemes is empty"),
    ],
)
def test_a_grid_that_cannot_work_is_refused(grid: GridOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _plan(grid)


def test_cells_come_seed_by_seed() -> None:
    plan = _plan(GridOptions(schemes="equal,rlo", seeds=2, detectors="atss,fcos"))
    assert [str(cell) for cell in plan.cells[:5]] == [
        "atss equal seed 0",
        "atss rlo seed 0",
        "fcos equal seed 0",
        "fcos rlo seed 0",
        "atss equal seed 1",
    ]


def test_each_cell_has_a_folder_of_its_own_and_its_options(tmp_path: Path) -> None:
    plan = _plan(GridOptions(schemes="equal,avw:invert=true,avw", seeds=2), size=96)
    assert len({cell_folder(tmp_path, cell) for cell in plan.cells}) == len(plan.cells)
    cell = Cell("fcos", "avw:invert=true", 1)
    config = cell_config(tmp_path, plan, cell)
    assert Path(config.out) / str(config.name) == cell_folder(tmp_path, cell)
    assert (config.detector, config.scheme, config.seed) == ("fcos", "avw:invert=true", 1)
    assert config.size == 96


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = _plan(GridOptions(schemes="equal,rlo", seeds="3,5"), size=96, lr=3e-4)
    save_plan(tmp_path / "s", plan)
    loaded = load_plan(tmp_path / "s")
    assert (loaded.cells, loaded.baseline) == (plan.cells, "equal")
    assert (loaded.options.size, loaded.options.lr) == (96, 3e-4)
    written = yaml.safe_load((tmp_path / "s/study.yaml").read_text())
    del written["mosaic"]  # as older versions wrote it
    (tmp_path / "s/study.yaml").write_text(yaml.safe_dump(written))
    assert load_plan(tmp_path / "s") == loaded


@pytest.mark.parametrize("text", ["", "- 1", "schemes: [equal]", "{a: ["])
def test_a_broken_plan_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(RunError, match=r"study\.yaml cannot be read"):
        load_plan(tmp_path)


def test_a_study_grows_but_keeps_its_options() -> None:
    old = _plan(GridOptions(schemes="equal,avw", seeds=2))
    new = _plan(GridOptions(schemes="equal,rlo", seeds=3), epochs=old.options.epochs)
    assert extend(old, new).schemes == ("equal", "avw", "rlo")
    assert extend(old, new).seeds == (0, 1, 2)
    with pytest.raises(UsageError, match="--epochs was 12 and is 3"):
        extend(old, _plan(epochs=3))
    with pytest.raises(UsageError, match="--mosaic was False and is True"):
        extend(old, _plan(mosaic=True))


def test_relative_data_are_found_by_runs_added_from_another_folder(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, other = tmp_path / "a", tmp_path / "b"
    for folder in (start / "set", other / "set"):  # two data sets of one name
        folder.mkdir(parents=True)
    plan = make_plan(GridOptions(schemes="equal", seeds=2), tiny(start, data="coco:set"))
    first, second = plan.cells
    monkeypatch.chdir(other)
    assert cell_config(start / "study", plan, second).data == "coco:set", "no run began yet"
    run = cell_folder(start / "study", first)
    run.mkdir(parents=True)
    (run / "environment.json").write_text(json.dumps({"folder": str(start)}))
    assert cell_config(start / "study", plan, second).data == f"coco:{start / 'set'}"
    monkeypatch.chdir(start)
    assert cell_config(start / "study", plan, second).data == "coco:set"
