"""COCO folders: which files are read, and what the records hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dataset_writers import coco_table, write_coco, write_image, write_voc

from scalewise.data import BadData, DetectionDataset, open_split


def test_records(tmp_path: Path) -> None:
    split = open_split(write_coco(tmp_path, coco_table()), "train")
    assert (split.format, split.classes, split.category_ids) == ("coco", ("cat", "dog"), (3, 7))
    first, second = split.records
    assert (first.image_id, first.path) == (5, tmp_path / "train2017" / "a.jpg")
    np.testing.assert_allclose(first.boxes, [[1.0, 2.0, 11.0, 10.0], [5.5, 5.0, 25.5, 25.0]])
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [50, 400]  # one annotated, one from the box
    assert second.area.tolist() == [1200]


def test_crowds_are_not_trained_on(tmp_path: Path) -> None:
    split = open_split(write_coco(tmp_path, coco_table()), "train")
    item = DetectionDataset(split, 40, augment=False)[0]
    assert item.labels.tolist() == [1]
    np.testing.assert_allclose(item.boxes, [[1, 2, 11, 10]])


@pytest.mark.parametrize(
    "folder", ["train2017", "images/train2017", "images/train", "images", "JPEGImages", ""]
)
def test_image_folders(tmp_path: Path, folder: str) -> None:
    """Images are found in each of the usual folders."""
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(coco_table()))
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / folder / name, 40, 30)
    for spec in (str(tmp_path), f"coco:{tmp_path}", str(file)):
        paths = [record.path for record in open_split(spec, "train").records]
        assert paths == [tmp_path / folder / "a.jpg", tmp_path / folder / "b.jpg"]


def test_roboflow_layout(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        for name in ("a.jpg", "b.jpg"):
            write_image(tmp_path / part / name, 40, 30)
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(coco_table()))
    assert open_split(tmp_path, "val").records[0].path == tmp_path / "valid" / "a.jpg"


def test_an_annotation_file_stands_for_its_siblings_but_never_for_another_split(
    tmp_path: Path,
) -> None:
    write_coco(tmp_path, coco_table(), "train2017")
    table = coco_table()
    table["images"].pop(0)
    table["annotations"] = table["annotations"][2:]
    write_coco(tmp_path, table, "val2017")
    train = tmp_path / "annotations" / "instances_train2017.json"
    assert len(open_split(train, "train").records) == 2
    assert len(open_split(train, "val").records) == 1
    with pytest.raises(BadData, match=r"no split 'test'; .* hold: train2017, val2017$"):
        open_split(train, "test")


def test_two_years_of_a_split_are_ambiguous_until_one_is_named(tmp_path: Path) -> None:
    """`train` is an error if there are two years of it."""
    for split in ("train2014", "train2017"):
        write_coco(tmp_path, coco_table(), split)
    with pytest.raises(BadData, match=r"could be any of .*train2014\.json, .*train2017\.json"):
        open_split(tmp_path, "train")
    assert open_split(tmp_path, "train2014").source.endswith("instances_train2014.json")
    file = tmp_path / "annotations" / "instances_train2014.json"
    assert open_split(file, "train").source == str(file)


def test_both_formats_agree_and_voc_is_preferred(tmp_path: Path) -> None:
    write_voc(
        tmp_path,
        {
            "a": (40, 30, [("dog", (3, 4, 20, 30)), ("cat", (1, 1, 40, 2))]),
            "b": (64, 64, [("cat", (10, 10, 11, 64))]),
            "c": (10, 10, []),
        },
    )
    table = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 2, "file_name": "b.jpg", "width": 64, "height": 64},
            {"id": 3, "file_name": "c.jpg", "width": 10, "height": 10},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [2, 3, 18, 27]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 2]},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [9, 9, 2, 55]},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "instances_train.json").write_text(json.dumps(table))
    voc, coco = open_split(tmp_path), open_split(f"coco:{tmp_path}")
    assert (voc.format, coco.format) == ("voc", "coco")
    assert (voc.classes, voc.category_ids) == (coco.classes, coco.category_ids)
    for ours, theirs in zip(voc.records, coco.records, strict=True):
        assert (ours.image_id, ours.path) == (theirs.image_id, theirs.path)
        for field in ("boxes", "labels", "crowd", "difficult", "area"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
