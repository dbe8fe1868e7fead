"""Pictures of a report: which images are shown, and what is marked in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_records import write_found, write_run

from scalewise.data import open_split
from scalewise.lab.data.image_record import Objects
from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.evaluation.judged import Judged
from scalewise.lab.evaluation.stored import read_detections, write_detections
from scalewise.lab.report.build import write_report
from scalewise.lab.report.changed_images import ObjectGroups, chosen
from scalewise.lab.report.image_boxes import Mark, draw_marks
from scalewise.lab.training.config import TrainConfig

Tiny = Callable[..., TrainConfig]
UNSEEN = 2


def test_pictures_are_those_in_which_the_runs_differ_most() -> None:
    """A difference counts 1 / (objects of its group): 1/2 in group 1, 1/4 in group 0."""
    objects = Objects()
    for place, label in enumerate((0, 0, 1)):
        objects.add((0.0, 0.0, 9.0, 9.0 + place), label)
    record = objects.record(1, Path("1.png"), 640, 640)
    records = [replace(record, image_id=number) for number in range(4)]
    group = np.array([0, 0, 1])
    groups = ObjectGroups(("a", "b"), dict.fromkeys(range(4), group), np.array([4, 2]), 1)

    def run(*found: list[int]) -> list[Judged]:
        none = np.zeros(0, int)
        empty = ImageDetections(
            0, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none, none
        )
        return [Judged(r, empty, np.array(f, int)) for r, f in zip(records, found, strict=True)]

    # differences between the runs: 1/4, 0, 1/2, 1/4 + 1/4 + 1/2
    one, other = run([0], [0, 1], [2, 0], [0, 2]), run([], [0, 1], [0], [1])
    assert chosen([one, other], groups, 4) == [3, 2, 0, 1]
    assert chosen([one, other], groups, 1) == [3]
    assert chosen([other], groups, 4) == [0, 2, 3, 1]  # missed: 1, 1/2, 3/4, 3/4


def test_a_name_stands_only_where_it_covers_no_other_box() -> None:
    image = Image.new("RGB", (100, 100), "white")
    box = np.array([30.0, 40.0, 40.0, 60.0])
    alone = draw_marks(image, [Mark(box, "green", name="cell")])
    plain = draw_marks(image, [Mark(box, "green")])
    assert alone.tobytes() != plain.tobytes()
    around = [Mark(np.array([5.0, y, 95.0, y + 35]), "red") for y in (4.0, 61.0)]
    named = draw_marks(image, [*around, Mark(box, "green", name="cell")])
    assert named.tobytes() == draw_marks(image, [*around, Mark(box, "green")]).tobytes()


@pytest.fixture
def runs(tiny: Tiny, tmp_path: Path) -> tuple[Path, Path]:
    """Two runs by class; the second misses every object of one class."""
    folders = tmp_path / "all", tmp_path / "some"
    for folder in folders:
        config = tiny(tmp_path, by="class")
        write_run(folder, config, [0.1], extras=False)
        write_found(folder, config)
    kept = [
        one.take(np.flatnonzero(one.labels != UNSEEN))
        for one in read_detections(folders[1] / "detections.parquet")
    ]
    write_detections(folders[1] / "detections.parquet", kept)
    return folders


def test_the_totals_are_those_of_the_split(
    runs: tuple[Path, Path], tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny(tmp_path)
    labels = np.concatenate([r.labels for r in open_split(config.data, "val").records])
    unseen = int((labels == UNSEEN).sum())
    assert unseen > 0
    page = write_report(runs, tmp_path / "report.html")[0].read_text()
    assert f"<td>{len(labels)} of {len(labels)}</td>" in page
    assert f"<td>{len(labels) - unseen} of {len(labels)}</td>" in page


def test_runs_of_other_classes_are_not_drawn(runs: tuple[Path, Path], tmp_path: Path) -> None:
    facts = json.loads((runs[1] / "environment.json").read_text())
    facts["classes"] = facts["classes"][::-1]
    (runs[1] / "environment.json").write_text(json.dumps(facts))
    page = write_report(runs, tmp_path / "report.html")[0].read_text()
    assert "some was trained on other classes than" in page
    assert "<img" not in page
