"""Annotations that are easy to misread: ids, values, lines, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dataset_writers import (
    coco_table,
    voc_xml,
    write_coco,
    write_many_boxes,
    write_voc,
    write_yolo,
)

from scalewise.data import BadData, open_split
from scalewise.lab.data.split import require_same_classes

DOG = [("dog", (2.0, 2.0, 9.0, 9.0))]
BOX = "1 0.5 0.5 0.5 0.4"


@pytest.mark.parametrize(
    ("iscrowd", "crowd"), [(0, False), (1, True), (True, True), (1.0, True), (None, False)]
)
def test_marks_of_crowds(tmp_path: Path, iscrowd: object, crowd: bool) -> None:
    """`iscrowd` may be 0, 1, true, false or null."""
    split = open_split(write_many_boxes(tmp_path, 3, iscrowd=iscrowd))
    assert split.records[0].crowd.tolist() == [False, False, crowd]


VALUES = [
    ({"iscrowd": "1"}, "iscrowd '1' is neither 0 nor 1", "bad value"),
    ({"iscrowd": "0"}, "iscrowd '0' is neither 0 nor 1", "bad value"),
    ({"iscrowd": 2}, "iscrowd 2 is neither 0 nor 1", "bad value"),
    ({"bbox": [True, 1, 2, 3]}, "bbox [True, 1, 2, 3] is not four numbers", "bad box"),
    ({"bbox": [0, 0, 10**400, 5]}, "is not finite", "bad box"),
    ({"bbox": [39.99999999, 2, 5, 5]}, "lies outside", "box outside image"),
    ({"bbox": [0, 0, 5, 6]}, "the same box of the same class occurs twice", "duplicate object"),
    ({"bbox": [0, 0, 5.0, 6.00]}, "the same box of the same class", "duplicate object"),
    ({"area": 1e60}, "area 1e+60 is not a finite number", "bad box"),
    ({"image_id": True}, "its image_id True is not a whole number", "bad id"),
    ({"image_id": 1.5}, "its image_id 1.5 is not a whole number", "bad id"),
    ({"category_id": "1"}, "its category_id '1' is not a whole number", "bad id"),
    ({"id": [1]}, "its id [1] is neither a number nor text", "bad id"),
]


@pytest.mark.parametrize(("change", "says", "kind"), VALUES)
def test_values_of_another_meaning(
    tmp_path: Path, change: dict[str, Any], says: str, kind: str
) -> None:
    """A value of a wrong type or range is a fault, not a guess."""
    root = write_many_boxes(tmp_path, 3, **change)
    with pytest.raises(BadData) as error:
        open_split(root, strict=True)
    assert says in str(error.value)
    with pytest.warns(UserWarning, match=f"skipped 1 {kind}"):
        assert open_split(root, skip_bad=True).skipped_counts == {kind: 1}


def test_ids(tmp_path: Path) -> None:
    """Ids may be negative or written as 5.0; other ids are faults."""
    table = coco_table()
    for row in table["images"]:
        row |= {"id": -row["id"], "width": 40.0, "height": 30.0}
    for number, row in enumerate(table["annotations"]):
        row |= {"image_id": float(-row["image_id"]), "id": f"text {number}"}
    split = open_split(write_coco(tmp_path / "odd", table))
    assert [record.image_id for record in split.records] == [-5, -9]
    assert [len(record.boxes) for record in split.records] == [2, 1]
    for value, why in ((2**63, "does not fit into 64 bits"), ("5", "is not a whole number")):
        table["images"][0]["id"] = value
        with pytest.raises(BadData, match=why):
            open_split(write_coco(tmp_path / "bad", table))


def test_one_file_under_two_ids(tmp_path: Path) -> None:
    table = coco_table()
    table["images"].append({"id": 6, "file_name": "./a.jpg", "width": 40, "height": 30})
    with pytest.raises(BadData, match=r"images\[2\]: '\./a\.jpg' has two image ids, 5 and 6"):
        open_split(write_coco(tmp_path, table))


def test_an_annotation_copied_whole_is_a_doubled_object(tmp_path: Path) -> None:
    table = coco_table()
    table["annotations"].append(dict(table["annotations"][0]))
    with pytest.warns(UserWarning, match="1 duplicate object"):
        open_split(write_coco(tmp_path, table), skip_bad=True)


YOLO_LINES = [
    ("1 0.50 0.5 0.5 0.40", "the object occurs twice", "duplicate object"),
    ("1 5e-1 .5 +0.5 0.4", "the object occurs twice", "duplicate object"),
    (
        "1 0.25 0.301 0.75 0.3 0.75 0.7 0.25 0.699",
        "a polygon around an object that also has a box",
        "duplicate object",
    ),
    ("0 0.5 0.5 0.4 0.4 0.87 3", "either a box with a score and a track number", "ambiguous line"),
    ("0 0.5 0.5 0.4 0.4 12 0.9", "a track number, or a triangle", "ambiguous line"),
    ("0 0.5 0.5 0.4 0_4", "is not all numbers", "broken line"),
    ("0 0.5 0.5 0.4 \uff11", "is not all numbers", "broken line"),
]


@pytest.mark.parametrize(("line", "says", "kind"), YOLO_LINES)
def test_lines_of_another_meaning(tmp_path: Path, line: str, says: str, kind: str) -> None:
    """Repeated, ambiguous and odd label lines are faults."""
    root = write_yolo(tmp_path, {"a": f"{BOX}\n{line}\n"})
    with pytest.raises(BadData) as error:
        open_split(root)
    assert f"a.txt, line 2: {says}" in str(error.value) or says in str(error.value)
    with pytest.warns(UserWarning, match=f"skipped 1 {kind}"):
        split = open_split(root, skip_bad=True)
    assert split.records[0].labels.tolist() == [1]


def test_polygons_of_other_objects_and_triangles_stay(tmp_path: Path) -> None:
    other_class = "0 0.25 0.3 0.75 0.3 0.75 0.7 0.25 0.7"
    elsewhere = "1 0.1 0.1 0.2 0.1 0.15 0.3"
    split = open_split(write_yolo(tmp_path, {"a": "\n".join((BOX, other_class, elsewhere))}))
    assert split.records[0].labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("names: [yes, no]", ("yes", "no")),
        ("names: {0: on, 1: 0.40}", ("on", "0.40")),
        ("names: [null, ~]\nnc: 2", ("null", "~")),
    ],
)
def test_names_are_what_is_written(tmp_path: Path, text: str, classes: tuple[str, ...]) -> None:
    root = write_yolo(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text(f"train: images/train\nval:\ntest: ~\n{text}\n")
    assert open_split(root).classes == classes
    with pytest.raises(BadData, match="no split 'val'; the splits there are: train"):
        open_split(root, "val")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: {0: cat, 0: dog}", "the key '0' occurs twice"),
        ("names: {0: cat, 00: dog}", "a class id of 'names' occurs twice"),
        ("names: [[cat], dog]", "the name of class 0, ['cat'], is not text"),
        ("names: ['', dog]", "the name of class 0 is empty"),
        ("names: [cat, dog]\nnames: [dog, cat]", "the key 'names' occurs twice"),
        ("a: &a [x]\nb: &b [*a, *a]\nnames: [*b, *b]", "is not text"),
        ("names: " + "[" * 1500, "cannot be read as YAML"),
    ],
)
def test_faulty_names(tmp_path: Path, text: str, says: str) -> None:
    root = write_yolo(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text(f"train: images/train\n{text}\n")
    with pytest.raises(BadData) as error:
        open_split(root)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_count_that_contradicts_the_names(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text("train: images/train\nnc: 3\nnames: [cat, dog]\n")
    with pytest.raises(BadData, match="'nc' is '3', but 'names' has 2 classes"):
        open_split(root)
    with pytest.warns(UserWarning, match="1 class count"):
        assert open_split(root, skip_bad=True).classes == ("cat", "dog")


DIFFICULT = [("0", False), ("1", True), ("", False), ("Unspecified", False), ("true", True)]


@pytest.mark.parametrize(("text", "difficult"), DIFFICULT)
def test_marks_of_difficult_objects(tmp_path: Path, text: str, difficult: bool) -> None:
    """Each usual way to write `difficult` is understood."""
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    xml = voc_xml(40, 30, DOG).replace(">0</diff", f">{text}</diff")
    (tmp_path / "Annotations" / "a.xml").write_text(xml)
    assert open_split(tmp_path).records[0].difficult.tolist() == [difficult]


XML_CHANGES = [
    ("<difficult>0", "<difficult>2", "difficult '2' is neither 0 nor 1"),
    ("<xmin>2.0</xmin>", "<xmin>2</xmin><xmin>5</xmin>", "is missing or repeated"),
    ("<xmin>2.0", "<xmin>2_0", "its name or a number in bndbox is missing"),
    ("<width>40", "<width>40.5", "its size/width or size/height is missing or no"),
]


@pytest.mark.parametrize(("old", "new", "says"), XML_CHANGES)
def test_xml_of_another_meaning(tmp_path: Path, old: str, new: str, says: str) -> None:
    """XML with missing, repeated or odd values is a fault, not a guess."""
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    text = voc_xml(40, 30, DOG)
    assert old in text
    (tmp_path / "Annotations" / "a.xml").write_text(text.replace(old, new))
    with pytest.raises(BadData) as error:
        open_split(tmp_path)
    assert says in str(error.value)


def test_the_same_object_twice_in_xml(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG * 2)})
    with pytest.raises(BadData, match=r"a\.xml, object 2 \(dog\): the same box"):
        open_split(tmp_path)


def test_classes_in_another_order_are_named(tmp_path: Path) -> None:
    table = coco_table()
    train = open_split(write_coco(tmp_path, table, "train2017"))
    table["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    val = open_split(write_coco(tmp_path, table, "val2017"), "val")
    with pytest.raises(
        BadData, match=r"same classes in different order: class 0 \(id 3\) is 'cat'"
    ):
        require_same_classes(train, val)
    table["categories"][0]["name"] = "cow"
    val = open_split(write_coco(tmp_path, table, "val2017"), "val")
    with pytest.raises(BadData, match="different classes: 'cow', 'dog' are in only one"):
        require_same_classes(train, val)
    require_same_classes(train, train)
