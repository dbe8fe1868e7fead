"""The files of a study in `results/` give the same tables again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from keep_study import keep
from kept import kept_study

from results import write_study
from scalewise.data import open_split
from scalewise.errors import UserError
from scalewise.lab.evaluation import ImageDetections, coco_metrics
from scalewise.lab.evaluation.stored import write_detections
from scalewise.lab.study.csv_tables import runs_csv
from scalewise.lab.study.plan_file import save_plan
from scalewise.lab.study.planned_cells import Cell, Plan, cell_config, cell_folder
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import save_config
from scalewise.lab.training.runs import RunError, write_json

RESULTS = Path(__file__).parents[2] / "results"
KEPT = sorted(plan.parent for plan in RESULTS.rglob("runs.csv"))
FIRST = Cell("atss", "equal", 0)


def copy_kept(folder: Path, to: Path) -> Path:
    """Copy the plan and the table of a kept study, without any raw records beside them."""
    to.mkdir()
    for name in ("study.yaml", "runs.csv"):
        shutil.copy(folder / name, to)
    return to


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An unfinished study: two seeds of equal weights, but only one of AVW."""
    options = TrainConfig(data=f"demo:images=20,size=64,folder={tmp_path / 'demo'}")
    plan = Plan(("atss",), ("equal", "avw"), (0, 1), "equal", options)
    folder = tmp_path / "study"
    save_plan(folder, plan)
    split = open_split(options.data, "val")
    for cell in plan.cells[:3]:
        run = cell_folder(folder, cell)
        run.mkdir(parents=True)
        save_config(run, cell_config(folder, plan, cell))
        shift = 1.0 + cell.seed + (cell.scheme == "avw")
        found = [
            ImageDetections(
                image_id=record.image_id,
                boxes=(record.boxes + np.array([0, 0, shift, shift])).astype(np.float32),
                scores=np.full(len(record.boxes), 0.5, np.float32),
                labels=record.labels,
                levels=np.zeros(len(record.boxes), dtype=np.int64),
            )
            for record in split.records
        ]
        write_detections(run / "detections.parquet", found)
        write_json(run / "metrics.json", {"status": "finished", "last": coco_metrics(split, found)})
    return folder


def write_traces(study: Path, names: tuple[str, ...]) -> None:
    for seed in (0, 1):
        columns = {f"{name}/{level}": [1.0, 2.0] for name in names for level in ("P3", "P4")}
        run = cell_folder(study, Cell("atss", "equal", seed))
        pq.write_table(pa.table({"step": [0, 1], **columns}), run / "trace.parquet")


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_every_table_of_runs_is_read_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    study = kept_study(copy_kept(folder, tmp_path / "kept"))
    assert runs_csv(study).encode() == (folder / "runs.csv").read_bytes()


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = RESULTS / "levels" / "bccd-levels-fcos-again"
    kept = copy_kept(folder, tmp_path / "kept")
    write_study(kept_study(kept), kept)
    assert {path.name for path in kept.iterdir()} == {
        "study.yaml", "runs.csv", "tables.md", "differences.png",
    }  # fmt: skip
    for name in ("runs.csv", "tables.md"):
        assert (kept / name).read_bytes() == (folder / name).read_bytes()


def test_a_study_is_kept_while_it_goes_on(study: Path, tmp_path: Path) -> None:
    kept = tmp_path / "groups" / "kept"
    assert keep(study, kept) == 3
    assert {path.name for path in kept.iterdir()} == {
        "study.yaml", "runs.csv", "tables.md", "differences.png",
    }  # fmt: skip
    assert (kept / "study.yaml").read_bytes() == (study / "study.yaml").read_bytes()
    text = (kept / "tables.md").read_text()
    assert "Over evaluation images, the trained models fixed:" in text
    assert "- Missing: atss avw seed 1: not finished" in text
    assert str(tmp_path) not in text
    before = (kept / "runs.csv").read_bytes()
    write_study(kept_study(kept), kept)
    assert (kept / "runs.csv").read_bytes() == before
    text = (kept / "tables.md").read_text()
    assert "Over evaluation images" not in text
    assert "- Intervals over evaluation images are left out" in text


def test_a_run_without_detections_is_named_without_its_machine(study: Path, tmp_path: Path) -> None:
    (cell_folder(study, FIRST) / "detections.parquet").unlink()
    keep(study, tmp_path / "kept")
    text = (tmp_path / "kept" / "tables.md").read_text()
    assert "nor detections.parquet in runs/atss/equal/seed-0" in text
    assert str(tmp_path) not in text


def test_shares_are_drawn_where_traces_allow(study: Path, tmp_path: Path) -> None:
    picture = tmp_path / "kept" / "shares.png"
    write_traces(study, ("loss", "weight"))
    keep(study, picture.parent)
    assert not picture.exists()
    write_traces(study, ("loss", "weight", "positives"))
    keep(study, picture.parent)
    assert picture.is_file()


def test_raw_records_win_over_the_table(study: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    keep(study, kept)
    of_table = {Cell(r.detector, r.scheme, r.seed): r.metrics for r in kept_study(kept).records}
    metrics = {"status": "finished", "last": of_table[FIRST] | {"AP": 0.125}}
    run = cell_folder(kept, FIRST)
    run.mkdir(parents=True)
    write_json(run / "metrics.json", metrics)
    found = {Cell(r.detector, r.scheme, r.seed): r.metrics for r in kept_study(kept).records}
    assert found[FIRST]["AP"] == 0.125
    assert of_table[FIRST]["AP"] != 0.125
    other = Cell("atss", "avw", 0)
    np.testing.assert_equal(found[other], of_table[other])


def test_a_row_that_no_plan_has_is_refused(study: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    keep(study, kept)
    with (kept / "runs.csv").open("a") as file:
        file.write("atss,equal,7\n")
    with pytest.raises(RunError, match="atss equal seed 7, which study"):
        kept_study(kept)


def test_nothing_is_written_without_a_finished_run(study: Path, tmp_path: Path) -> None:
    shutil.rmtree(study / "runs")
    with pytest.raises(UserError, match="no finished run"):
        keep(study, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
