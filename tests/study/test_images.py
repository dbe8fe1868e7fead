from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from scalewise.data import Split, open_split
from scalewise.lab.evaluation import ImageDetections, coco_metrics
from scalewise.lab.evaluation.stored import write_detections
from scalewise.lab.study.other_images import ImageBootstrap, ImageDifference, image_bootstrap
from scalewise.lab.study.plan_file import save_plan
from scalewise.lab.study.planned_cells import Plan, cell_config, cell_folder
from scalewise.lab.study.records import load_study
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import save_config
from scalewise.lab.training.runs import write_json

_NOISE = {"equal": 6.0, "avw": 2.0, "rlo": 6.0}


def _detections(split: Split, noise: float, seed: int) -> list[ImageDetections]:
    """The objects with Gaussian noise (in pixels) on their edges."""
    rng = np.random.default_rng(seed)
    result = []
    for record in split.records:
        count = len(record.boxes)
        boxes = record.boxes + rng.normal(0, noise, (count, 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        result.append(
            ImageDetections(
                image_id=record.image_id,
                boxes=boxes.astype(np.float32),
                scores=rng.random(count).astype(np.float32),
                labels=record.labels,
                levels=np.zeros(count, dtype=np.int64),
            )
        )
    return result


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study in which AVW is better than equal, and RLO finds the same."""
    options = TrainConfig(data=f"demo:images=40,size=64,folder={tmp_path / 'demo'}")
    plan = Plan(("atss",), ("equal", "avw", "rlo"), (0, 1), "equal", options)
    folder = tmp_path / "study"
    save_plan(folder, plan)
    split = open_split(options.data, "val")
    for cell in plan.cells:
        run = cell_folder(folder, cell)
        run.mkdir(parents=True)
        save_config(run, cell_config(folder, plan, cell))
        found = _detections(split, _NOISE[cell.scheme], cell.seed)
        write_detections(run / "detections.parquet", found)
        write_json(run / "metrics.json", {"status": "finished", "last": coco_metrics(split, found)})
    return folder


def _find(result: ImageBootstrap, scheme: str, metric: str = "AP") -> ImageDifference:
    (found,) = (d for d in result.differences if (d.scheme, d.metric) == (scheme, metric))
    return found


def _validation(study: Path) -> Split:
    return open_split(load_study(study).plan.options.data, "val")


def test_known_effects_and_no_retraining(study: Path) -> None:
    result = image_bootstrap(load_study(study), resamples=200)
    assert result.left_out == []
    better, same = _find(result, "avw"), _find(result, "rlo")
    assert better.interval is not None
    assert 0 < better.interval.low < better.difference < better.interval.high
    assert better.seeds == (0, 1)
    assert (better.images, better.resamples) == (len(_validation(study).records), 200)
    assert same.difference == 0
    assert same.interval == (0, 0)  # the same detections and the same draws


def test_equals_scoring_each_resample_anew(study: Path) -> None:
    """The interval equals one from COCO metrics of 8 splits with repeated images."""
    loaded, split, draws = load_study(study), _validation(study), 8
    order = sorted(range(len(split.records)), key=lambda i: split.records[i].image_id)
    images = len(order)
    counts = np.random.default_rng(7).multinomial(images, np.full(images, 1 / images), draws)

    def resampled(scheme: str, seed: int, row: list[int]) -> float:
        found = _detections(split, _NOISE[scheme], seed)
        records, detections = [], []
        for place, count in zip(order, row, strict=True):
            for copy in range(count):
                image_id = 1000 * split.records[place].image_id + copy
                records.append(replace(split.records[place], image_id=image_id))
                detections.append(replace(found[place], image_id=image_id))
        return coco_metrics(replace(split, records=records), detections)["AP75"]

    differences = [
        np.mean([resampled("avw", k, row) - resampled("equal", k, row) for k in (0, 1)])
        for row in counts.tolist()
    ]
    found = _find(image_bootstrap(loaded, resamples=draws, seed=7), "avw", "AP75")
    shift = norm.ppf(np.clip(np.mean(differences < np.array(found.difference)), 1 / 16, 15 / 16))
    ends = norm.cdf(2 * shift + np.array([-1.959964, 1.959964]))
    assert found.interval == pytest.approx(np.quantile(differences, ends), abs=1e-7)


def test_matches_are_kept_and_stand_in_for_data_and_detections(study: Path) -> None:
    before = image_bootstrap(load_study(study), resamples=20)
    runs = [record.folder for record in load_study(study).records]
    assert all((run / "matches.npz").is_file() for run in runs)
    (demo,) = study.parent.glob("demo-*")
    shutil.rmtree(demo)
    for run in runs:
        (run / "detections.parquet").unlink()
    assert image_bootstrap(load_study(study), resamples=20) == before
    assert not demo.exists()


def test_what_is_absent_is_left_out_and_said(study: Path) -> None:
    runs = {(r.scheme, r.seed): r.folder for r in load_study(study).records}
    (runs["equal", 1] / "detections.parquet").unlink()
    for seed in (0, 1):
        (runs["rlo", seed] / "detections.parquet").unlink()
    result = image_bootstrap(load_study(study), resamples=20)
    assert _find(result, "avw").seeds == (0,)
    assert {d.scheme for d in result.differences} == {"avw"}
    assert len(result.left_out) == 4
    assert "neither matches.npz nor detections.parquet" in result.left_out[0]
    assert result.left_out[-1] == "atss rlo: no seed with matches of it and equal"


def test_absent_data_is_said(study: Path) -> None:
    for record in load_study(study).records:
        config = record.folder / "config.yaml"
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("data: demo:", "data: coco:"), encoding="utf-8")
    result = image_bootstrap(load_study(study), resamples=20)
    assert result.differences == []
    assert sum("no such data set" in line for line in result.left_out) == 6


def test_matches_of_an_older_pass_are_made_anew(study: Path) -> None:
    image_bootstrap(load_study(study), resamples=20)
    runs = {(r.scheme, r.seed): r.folder for r in load_study(study).records}
    shutil.copy(runs["equal", 0] / "matches.npz", runs["avw", 0] / "matches.npz")
    result = image_bootstrap(load_study(study), resamples=20)
    assert result.left_out == []
    assert _find(result, "avw").difference > 0


def test_detections_that_do_not_give_the_recorded_figure_are_refused(study: Path) -> None:
    path = load_study(study).records[0].folder / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["last"]["AP"] += 0.01
    write_json(path, metrics)
    result = image_bootstrap(load_study(study), resamples=20)
    assert len(result.left_out) == 1
    assert "atss equal seed 0: " in result.left_out[0]
    assert "does not give the AP in metrics.json" in result.left_out[0]
    assert _find(result, "avw").seeds == (1,)
