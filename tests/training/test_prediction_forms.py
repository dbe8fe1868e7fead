"""Predictions in other tools' formats, on videos, and with the scores at which F1 is best."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from stub_detector import CLASSES, Stub, save
from torchvision.ops import box_iou

from scalewise.cli import main
from scalewise.data import Split, open_split
from scalewise.errors import UserError
from scalewise.lab.data.image_record import Objects
from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.evaluation.ranking import best_thresholds
from scalewise.lab.evaluation.stored import write_detections
from scalewise.lab.inference.prediction import predict
from scalewise.lab.inference.scored import validated
from scalewise.lab.inference.trained import load_run
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train


def test_yolo_lines_read_back_by_our_reader(tmp_path: Path) -> None:
    root = tmp_path / "images"
    save(root / "val" / "a" / "x.png", (50, 30))
    save(root / "val" / "b" / "x.png", (40, 80))
    save(root / "val" / "dark.png", (40, 40), "black")
    scored, _ = predict(
        Stub(CLASSES), [root], tmp_path / "scored", 0.3, save_txt=True, save_conf=True
    )
    lines = (scored / "labels" / "val" / "a" / "x.txt").read_text().splitlines()
    assert [line.split()[5] for line in lines] == ["0.900000", "0.400000"]
    folder, _ = predict(Stub(CLASSES), [root], tmp_path / "out", 0.3, save_txt=True)
    written = sorted(file for file in (folder / "labels").rglob("*") if file.is_file())
    assert [str(file.relative_to(folder / "labels")) for file in written] == [
        "val/a/x.txt", "val/b/x.txt", "val/dark.txt",
    ]  # fmt: skip
    assert not written[2].read_text()
    (folder / "labels").rename(tmp_path / "labels")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\nval: images/val\nnames: {CLASSES}\n")
    split = open_split(f"yolo:{tmp_path}", "val", strict=True)
    found = {str(r.path.relative_to(root / "val")): r for r in split.records}
    assert found["a/x.png"].labels.tolist() == [1, 0]
    expected = np.array([[0, 0, 25, 30], [12.5, 7.5, 50, 30]])
    np.testing.assert_allclose(found["a/x.png"].boxes, expected, atol=1e-3)
    np.testing.assert_allclose(found["b/x.png"].boxes[0], [0, 0, 20, 80], atol=1e-3)
    assert not len(found["dark.png"].boxes)


def test_images_of_one_name_have_text_files_of_their_own(tmp_path: Path) -> None:
    files = [save(tmp_path / name, (20, 20)) for name in ("a/x.png", "a/x.jpg", "b/x.png")]
    folder, _ = predict(Stub(CLASSES), [*files, files[0]], tmp_path / "out", 0.3, save_txt=True)
    names = {str(f.relative_to(folder / "labels")) for f in folder.rglob("*.txt")}
    assert names == {"a/x.txt", "a/x.jpg.txt", "b/x.txt"}
    assert len(json.loads((folder / "predictions.json").read_text())) == 3


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file of two images, ids 70 and 4, classes in another order than the detector's."""
    folder = tmp_path_factory.mktemp("coco")
    images = []
    for number, name in ((70, "a.png"), (4, "b.png")):
        save(folder / "val" / name, (60, 40))
        images.append({"id": number, "file_name": name, "width": 60, "height": 40})
    annotation = {"id": 1, "image_id": 70, "category_id": 9, "bbox": [0, 0, 30, 40], "area": 1200}
    content = {
        "images": images,
        "annotations": [annotation | {"iscrowd": 0}],
        "categories": [
            {"id": number, "name": name} for number, name in ((9, "dog"), (3, "eel"), (5, "cat"))
        ],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def test_coco_results_have_the_ids_of_the_data(annotated: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", (20, 20))
    like = open_split(annotated, "val")
    images = [annotated / "val", other]
    folder, _ = predict(Stub(CLASSES), images, tmp_path / "out", 0.3, save_coco=True, like=like)
    results = json.loads((folder / "coco.json").read_text())
    assert {row["image_id"] for row in results} == {4, 70, 71}
    dog, cat = (row for row in results if row["image_id"] == 70)
    assert (dog["category_id"], dog["bbox"]) == (9, pytest.approx([0, 0, 30, 40]))
    assert (cat["category_id"], cat["bbox"]) == (5, pytest.approx([15, 10, 45, 30]))
    truth = COCO(str(annotated / "annotations" / "instances_val.json"))
    own = [row for row in results if row["image_id"] != 71]
    assert len(truth.loadRes(own).getAnnIds(imgIds=[70], catIds=[9])) == 1
    beside = json.loads((folder / "coco-images.json").read_text())
    assert [(i["id"], i["file_name"]) for i in beside["images"]] == [(71, str(other))]


def test_coco_results_without_data_come_with_their_images(tmp_path: Path) -> None:
    images = [save(tmp_path / name, (60, 40)) for name in ("a.png", "b.png")]
    folder, _ = predict(Stub(CLASSES), images, tmp_path / "out", 0.5, save_coco=True)
    truth = COCO(str(folder / "coco-images.json"))
    loaded = truth.loadRes(str(folder / "coco.json"))
    assert sorted(loaded.getImgIds()) == [1, 2]
    (row,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[2]))
    assert truth.loadCats([row["category_id"]])[0]["name"] == "dog"
    assert row["bbox"] == pytest.approx([0, 0, 30, 40])


def test_data_without_the_classes_are_refused(annotated: Path, tmp_path: Path) -> None:
    like = open_split(annotated, "val")
    with pytest.raises(UserError, match="has no class 'fox'"):
        predict(Stub([*CLASSES, "fox"]), [annotated / "val"], tmp_path / "out", 0.3, like=like)
    assert not (tmp_path / "out").exists()


def small_split(boxes: list[list[list[float]]], labels: list[list[int]]) -> Split:
    records = []
    for number, (own, classes) in enumerate(zip(boxes, labels, strict=True), start=1):
        objects = Objects()
        for (x1, y1, x2, y2), label in zip(own, classes, strict=True):
            objects.add((x1, y1, x2, y2), label)
        records.append(objects.record(number, Path(f"{number}.png"), 100, 100))
    return Split("coco", "val", "x.json", tuple(CLASSES), (1, 2, 3), records)


def brute_f1(split: Split, found: list[ImageDetections], label: int, score: float) -> float:
    """F1 of boxes with enough score: best first, each takes the free object of largest overlap."""
    right = kept = objects = 0
    for record, image in zip(split.records, found, strict=True):
        truth = torch.from_numpy(record.boxes[record.labels == label])
        objects += len(truth)
        chosen = [i for i in np.argsort(-image.scores, kind="stable")
                  if image.labels[i] == label and image.scores[i] >= score]  # fmt: skip
        kept += len(chosen)
        free = set(range(len(truth)))
        for i in chosen:
            overlaps = box_iou(torch.from_numpy(image.boxes[i : i + 1]), truth)[0]
            best = max(free, key=lambda j: float(overlaps[j]), default=None)
            if best is not None and overlaps[best] >= 0.5:
                free.remove(best)
                right += 1
    return 2 * right / (kept + objects) if kept + objects else float("nan")


@given(st.integers(0, 2**32 - 1))
def test_best_f1_is_that_of_every_score_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, labels, found = [], [], []
    for number in (1, 2, 3):
        count = rng.integers(1, 5)
        corner = rng.uniform(0, 60, (count, 2))
        own = np.concatenate([corner, corner + rng.uniform(10, 40, (count, 2))], axis=1)
        boxes.append(own.tolist())
        labels.append(rng.integers(0, 2, count).tolist())  # the third class has no objects
        rows = rng.integers(0, count, 8)
        guess = own[rows] + rng.normal(0, 3, (8, 4))
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        right = np.array(labels[-1])[rows]
        guessed = np.where(rng.random(8) < 0.7, right, rng.integers(0, 3, 8))
        scores = (rng.random(8) * 20).round() / 20  # some are equal
        found.append(ImageDetections(
            number, guess.astype(np.float32), scores.astype(np.float32), guessed,
            np.zeros(8, np.int64),
        ))  # fmt: skip
    split = small_split(boxes, labels)
    try:
        thresholds = best_thresholds(split, found)
    except UserError:
        every = {float(s) for image in found for s in image.scores}
        assert all(not brute_f1(split, found, c, s) > 0 for c in (0, 1) for s in every)
        return
    for label, threshold in enumerate(thresholds):
        there = {float(s) for i in found for s in i.scores[i.labels == label]}
        tried = [brute_f1(split, found, label, score) for score in there]
        best = max(tried, default=0.0)
        if label < 2 and best > 0:
            assert threshold.own
            assert threshold.f1 == pytest.approx(best)
            assert brute_f1(split, found, label, threshold.score) == pytest.approx(best)
        else:
            assert not threshold.own
    assert np.isnan(thresholds[2].f1)


@pytest.fixture(scope="module")
def trained(tiny: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(replace(tiny(tmp_path_factory.mktemp("runs")), epochs=1))


def test_the_command_takes_the_best_scores(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = open_split(load_run(trained, "last", "cpu").config.data, "val")
    found = [
        ImageDetections(
            r.image_id, r.boxes, np.full(len(r.boxes), 0.25, np.float32), r.labels, r.labels * 0
        )
        for r in split.records
    ]
    write_detections(trained / "detections.parquet", found)
    image = save(tmp_path / "a.png", (64, 40))
    words = [str(trained), str(image), "--checkpoint", "last", "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--threshold", "best-f1", "--save-txt"]
    assert main(["predict", *words]) == 0
    out = capsys.readouterr().out
    there = {label for record in split.records for label in record.labels.tolist()}
    for label, name in enumerate(split.classes):
        rest = (
            ", F1 1.000"
            if label in there
            else (", the score for all classes together, no object to find")
        )
        assert f"best-f1: {name} from 0.250{rest}" in out
    assert (tmp_path / "out" / "labels" / "a.txt").is_file()
    (trained / "detections.parquet").unlink()
    assert main(["predict", *words]) == 1
    assert "has no validation detections" in capsys.readouterr().err


def test_detections_of_another_epoch_are_found_anew(trained: Path, tmp_path: Path) -> None:
    run = load_run(trained, "last", "cpu")
    write_detections(trained / "detections.parquet", [])
    assert validated(run)[1] == []
    assert validated(replace(run, epoch=7))[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--threshold", "2"], "--threshold is a score, 0 to 1, or"),
        (["--threshold", "best"], "threshold"),
        (["--data", "x"], "--data gives the ids for --save_coco"),
    ],
)
def test_impossible_options_are_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tmp_path), str(tmp_path / "a.png"), *words]) == 2
    assert told in capsys.readouterr().err
