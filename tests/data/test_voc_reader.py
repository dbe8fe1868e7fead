"""VOC folders: coordinates, classes, years, splits and images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_writers import voc_xml, write_image, write_voc
from defusedxml.ElementTree import fromstring

from scalewise.data import BadData, open_split
from scalewise.lab.data.voc_xml import parse_annotation


def test_coordinates_become_zero_based_edges(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, [("dog", (1, 1, 40, 30)), ("cat", (11, 5, 20, 8))])})
    record = open_split(tmp_path).records[0]
    np.testing.assert_array_equal(record.boxes, [[0, 0, 40, 30], [10, 4, 20, 8]])
    np.testing.assert_array_equal(record.area, [1200, 40])  # in pixels, both ends included
    assert record.boxes.dtype == np.float32
    assert record.labels.dtype == np.int64


def test_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, [("zebra", (1, 1, 9, 9))])}, "train")
    write_voc(tmp_path, {"b": (40, 30, [("ant", (1, 1, 9, 9))])}, "val")
    for name, label in (("train", 1), ("val", 0)):
        split = open_split(tmp_path, name)
        assert split.classes == ("ant", "zebra")
        assert split.records[0].labels.tolist() == [label]


def test_classes_file_fixes_the_order_and_refuses_others(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, [("zebra", (1, 1, 9, 9)), ("ant", (1, 1, 9, 9))])})
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    assert open_split(tmp_path).records[0].labels.tolist() == [0, 1]
    (tmp_path / "classes.txt").write_text("zebra\n")
    with pytest.raises(BadData, match=r"a\.xml, object 2: class 'ant' is not in classes\.txt"):
        open_split(tmp_path)
    (tmp_path / "classes.txt").write_text("zebra\nzebra\n")
    with pytest.raises(BadData, match=r"classes\.txt: class 'zebra' is named twice"):
        open_split(tmp_path)


def test_difficult_and_images_without_objects_are_kept(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, []), "b": (40, 30, [])})
    xml = voc_xml(40, 30, [("dog", (2, 2, 9, 9))], difficult=True)
    (tmp_path / "Annotations" / "b.xml").write_text(xml)
    split = open_split(tmp_path)
    assert [len(record.boxes) for record in split.records] == [0, 1]
    assert split.records[0].boxes.shape == (0, 4)
    assert split.records[1].difficult.tolist() == [True]


def test_devkit_years_are_joined_where_they_have_the_split(tmp_path: Path) -> None:
    dog = [("dog", (2.0, 2.0, 9.0, 9.0))]
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / "VOCdevkit" / year, {f"{year}_a": (40, 30, dog)}, "trainval")
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"t": (40, 30, dog)}, "test")
    for root in (tmp_path, tmp_path / "VOCdevkit"):
        joined = open_split(root, "trainval")
        assert [record.path.stem for record in joined.records] == ["VOC2007_a", "VOC2012_a"]
        assert [record.image_id for record in joined.records] == [1, 2]
        assert [record.path.stem for record in open_split(root, "test").records] == ["t"]


def test_split_names(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, [("dog", (2, 2, 9, 9))])}, "trainval")
    (tmp_path / "ImageSets" / "Main" / "dog_trainval.txt").write_text("a 1\n")
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    assert len(open_split(tmp_path, "train").records) == 1
    assert len(open_split(tmp_path, "dog_trainval").records) == 1
    with pytest.raises(BadData, match=r"no split 'val'; the splits there are: test, trainval$"):
        open_split(tmp_path, "val")


def test_images_of_other_suffixes_are_found(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, [("dog", (2, 2, 9, 9))])})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    write_image(tmp_path / "JPEGImages" / "a.PNG", 40, 30)
    assert open_split(tmp_path).records[0].path.name == "a.PNG"


def test_a_file_is_parsed_once_for_all_splits_and_anew_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is parsed once for all splits, and again if its text changes."""
    for split, left in (("train", 1.0), ("val", 4.0)):
        boxes = [(f"c{n}", (left + n, 2.0, 9.0, 9.0)) for n in range(3)]
        write_voc(tmp_path, {f"{split}-{n}": (40, 30, [boxes[n]]) for n in range(3)}, split)
    parsed: list[str] = []

    def noted(text: str) -> Any:
        parsed.append(text)
        return fromstring(text)

    monkeypatch.setattr("scalewise.lab.data.voc_xml.fromstring", noted)
    parse_annotation.cache_clear()
    splits = [open_split(tmp_path, name) for name in ("train", "val")]
    texts = [path.read_text() for path in (tmp_path / "Annotations").iterdir()]
    assert sorted(parsed) == sorted(texts)
    assert [len(split.records) for split in splits] == [3, 3]
    changed = tmp_path / "Annotations" / "val-0.xml"
    before = changed.stat()
    changed.write_text(voc_xml(40, 30, [("c0", (2, 2, 9, 9))]))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_split(tmp_path, "val").records[0].boxes[0, 0] == 1
