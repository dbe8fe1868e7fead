"""How many faults are borne, and annotations that mean something else than they seem to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataset_writers import coco_table, voc_xml, write_coco, write_image, write_voc, write_yolo

from scalewise.data import BadData, open_split
from scalewise.errors import UsageError
from scalewise.lab.data.split import require_same_classes
from scalewise.lab.training.config import TrainConfig, check

DOG = [("dog", (2.0, 2.0, 9.0, 9.0))]
BOX = "1 0.5 0.5 0.5 0.4"


def _many(root: Path, boxes: int, **changes: Any) -> Path:
    """One image with so many boxes, the last of which is changed."""
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [i % 35, i // 35, 5, 6]}
        for i in range(boxes)
    ]
    rows[-1] |= changes
    write_coco(root, {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": rows,
        "categories": [{"id": 1, "name": "dog"}],
    })  # fmt: skip
    return root


def test_under_one_percent_is_left_out_and_named(tmp_path: Path) -> None:
    root = _many(tmp_path / "few", 101, bbox=[1, 1, 0, 5])
    with pytest.warns(UserWarning, match=r"skipped 1 bad box: .*annotation 100 .* zero area"):
        split = open_split(root)
    assert split.skipped_counts == {"bad box": 1}
    assert len(split.records[0].boxes) == 100
    with pytest.raises(BadData, match="zero area"):
        open_split(root, strict=True)
    exactly = _many(tmp_path / "exactly", 100, bbox=[1, 1, 0, 5])
    with pytest.raises(BadData, match="zero area"):
        open_split(exactly)


def test_classes_and_ids_stop_even_if_few(tmp_path: Path) -> None:
    for number, change in enumerate(({"category_id": 5}, {"image_id": 5}, {"id": 3})):
        root = _many(tmp_path / str(number), 300, **change)
        with pytest.raises(BadData, match="--skip-bad"):
            open_split(root)
        with pytest.warns(UserWarning, match="skipped 1"):
            assert len(open_split(root, skip_bad=True).records[0].boxes) == 299


def test_few_images_may_be_lost(tmp_path: Path) -> None:
    images = {f"{number:03}": (40, 30, list(DOG)) for number in range(101)}
    write_voc(tmp_path, images)
    (tmp_path / "JPEGImages" / "007.jpg").unlink()
    with pytest.warns(UserWarning, match=r"skipped 1 missing image: .*007\.jpg: no such"):
        assert len(open_split(tmp_path).records) == 100
    (tmp_path / "Annotations" / "008.xml").unlink()
    with pytest.raises(BadData, match="2 faults: 1 missing image, 1 missing annotation"):
        open_split(tmp_path)


def test_the_first_three_are_named(tmp_path: Path) -> None:
    root = _many(tmp_path, 600)
    file = root / "annotations" / "instances_train2017.json"
    table = json.loads(file.read_text())
    for row in table["annotations"][:5]:
        row["bbox"] = [1, 1, -1, 5]
    file.write_text(json.dumps(table))
    with pytest.warns(UserWarning, match="annotation 0 .*annotation 2 .*; and 2 more$") as told:
        open_split(root)
    assert "annotation 3 " not in str(told[0].message)


def test_strict_and_skip_bad_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        open_split("demo", skip_bad=True, strict=True)
    with pytest.raises(UsageError, match="exclude each other"):
        check(TrainConfig(data="demo", skip_bad=True, strict=True))


@pytest.mark.parametrize(
    ("iscrowd", "crowd"), [(0, False), (1, True), (True, True), (1.0, True), (None, False)]
)
def test_marks_of_crowds(tmp_path: Path, iscrowd: object, crowd: bool) -> None:
    split = open_split(_many(tmp_path, 3, iscrowd=iscrowd))
    assert split.records[0].crowd.tolist() == [False, False, crowd]


VALUES = [
    ({"iscrowd": "1"}, "iscrowd '1' is neither 0 nor 1", "bad value"),
    ({"iscrowd": "0"}, "iscrowd '0' is neither 0 nor 1", "bad value"),
    ({"iscrowd": 2}, "iscrowd 2 is neither 0 nor 1", "bad value"),
    ({"bbox": [True, 1, 2, 3]}, "bbox [True, 1, 2, 3] is not four numbers", "bad box"),
    ({"bbox": [0, 0, 10**400, 5]}, "is not finite", "bad box"),
    ({"bbox": [39.99999999, 2, 5, 5]}, "lies outside", "box outside image"),
    ({"bbox": [0, 0, 5, 6]}, "the same box of the same class is there twice", "duplicate object"),
    ({"bbox": [0, 0, 5.0, 6.00]}, "the same box of the same class", "duplicate object"),
    ({"area": 1e60}, "area 1e+60 is not a finite number", "bad box"),
    ({"image_id": True}, "its image_id True is no whole number", "bad id"),
    ({"image_id": 1.5}, "its image_id 1.5 is no whole number", "bad id"),
    ({"category_id": "1"}, "its category_id '1' is no whole number", "bad id"),
    ({"id": [1]}, "its id [1] is neither a number nor text", "bad id"),
]


@pytest.mark.parametrize(("change", "says", "kind"), VALUES)
def test_values_of_another_meaning(
    tmp_path: Path, change: dict[str, Any], says: str, kind: str
) -> None:
    root = _many(tmp_path, 3, **change)
    with pytest.raises(BadData) as error:
        open_split(root, strict=True)
    assert says in str(error.value)
    with pytest.warns(UserWarning, match=f"skipped 1 {kind}"):
        assert open_split(root, skip_bad=True).skipped_counts == {kind: 1}


def test_ids(tmp_path: Path) -> None:
    table = coco_table()
    for row in table["images"]:
        row |= {"id": -row["id"], "width": 40.0, "height": 30.0}
    for number, row in enumerate(table["annotations"]):
        row |= {"image_id": float(-row["image_id"]), "id": f"text {number}"}
    split = open_split(write_coco(tmp_path / "odd", table))
    assert [record.image_id for record in split.records] == [-5, -9]
    assert [len(record.boxes) for record in split.records] == [2, 1]
    for value, why in ((2**63, "does not fit into 64 bits"), ("5", "is no whole number")):
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
    ("1 0.50 0.5 0.5 0.40", "the object is there twice", "duplicate object"),
    ("1 5e-1 .5 +0.5 0.4", "the object is there twice", "duplicate object"),
    (
        "1 0.25 0.301 0.75 0.3 0.75 0.7 0.25 0.699",
        "a polygon around what has a box already",
        "duplicate object",
    ),
    ("0 0.5 0.5 0.4 0.4 0.87 3", "a box with a score and the number of a track", "ambiguous line"),
    ("0 0.5 0.5 0.4 0.4 12 0.9", "the number of a track, or a triangle", "ambiguous line"),
    ("0 0.5 0.5 0.4 0_4", "is not all numbers", "broken line"),
    ("0 0.5 0.5 0.4 \uff11", "is not all numbers", "broken line"),
]


@pytest.mark.parametrize(("line", "says", "kind"), YOLO_LINES)
def test_lines_of_another_meaning(tmp_path: Path, line: str, says: str, kind: str) -> None:
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
        ("names: {0: cat, 0: dog}", "the key '0' is there twice"),
        ("names: {0: cat, 00: dog}", "a class id of 'names' is there twice"),
        ("names: [[cat], dog]", "the name of class 0, ['cat'], is no text"),
        ("names: ['', dog]", "the name of class 0 is empty"),
        ("names: [cat, dog]\nnames: [dog, cat]", "the key 'names' is there twice"),
        ("a: &a [x]\nb: &b [*a, *a]\nnames: [*b, *b]", "is no text"),
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
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    xml = voc_xml(40, 30, DOG).replace(">0</diff", f">{text}</diff")
    (tmp_path / "Annotations" / "a.xml").write_text(xml)
    assert open_split(tmp_path).records[0].difficult.tolist() == [difficult]


XML_CHANGES = [
    ("<difficult>0", "<difficult>2", "difficult '2' is neither 0 nor 1"),
    ("<xmin>2.0</xmin>", "<xmin>2</xmin><xmin>5</xmin>", "or has one twice"),
    ("<xmin>2.0", "<xmin>2_0", "lacks a name or a number in bndbox"),
    ("<width>40", "<width>40.5", "has no size/width and size/height in whole pixels"),
]


@pytest.mark.parametrize(("old", "new", "says"), XML_CHANGES)
def test_xml_of_another_meaning(tmp_path: Path, old: str, new: str, says: str) -> None:
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
    with pytest.raises(BadData, match="different classes: 'cow', 'dog' stand in one only"):
        require_same_classes(train, val)
    require_same_classes(train, train)


ENCODED = ["gb2312", "gb18030", "utf-16", "iso-8859-5", "shift_jis", "utf-8-sig"]


@pytest.mark.parametrize("encoding", ENCODED)
def test_xml_in_the_encoding_it_declares(tmp_path: Path, encoding: str) -> None:
    name = {"iso-8859-5": "\u0433\u0430\u0439\u043a\u0430", "shift_jis": "\u87ba\u5b50"}.get(
        encoding, "\u87ba\u6813"
    )
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
    text = head + voc_xml(40, 30, [(name, (2, 2, 9, 9))])
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert open_split(tmp_path).classes == (name,)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_with_marks_of_their_encoding(tmp_path: Path, encoding: str) -> None:
    voc = write_voc(tmp_path / "voc", {"a": (40, 30, DOG)})
    (voc / "classes.txt").write_bytes("dog\r\n\u87ba\u6813\r\n".encode(encoding))
    (voc / "ImageSets" / "Main" / "train.txt").write_bytes("a\r\n".encode(encoding))
    assert open_split(voc).classes == ("dog", "\u87ba\u6813")
    yolo = write_yolo(tmp_path / "yolo", {"a": BOX})
    for path in (yolo / "data.yaml", yolo / "labels" / "train" / "a.txt"):
        path.write_bytes(path.read_text().encode(encoding))
    assert open_split(yolo).records[0].labels.tolist() == [1]
    coco = write_coco(tmp_path / "coco", coco_table())
    file = coco / "annotations" / "instances_train2017.json"
    file.write_bytes(file.read_text().encode(encoding))
    assert len(open_split(coco).records) == 2


@pytest.mark.parametrize("path", ["classes.txt", "ImageSets/Main/train.txt", "Annotations/a.xml"])
def test_other_encodings_are_told_with_a_remedy(tmp_path: Path, path: str) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG), "b": (40, 30, DOG)})
    (tmp_path / "classes.txt").write_text("dog\n")
    data = (tmp_path / path).read_bytes()
    (tmp_path / path).write_bytes(data.replace(b"dog", b"\xe9cr").replace(b"a\n", b"\xe9\n"))
    with pytest.raises(BadData, match=r"it is not UTF-8 text, byte \d+; save it as UTF-8") as error:
        open_split(tmp_path)
    assert str(tmp_path / path) in str(error.value)
    assert "\n" not in str(error.value)
    if path.endswith(".xml"):
        with pytest.warns(UserWarning, match="1 broken file"):
            assert len(open_split(tmp_path, skip_bad=True).records) == 1


def test_texts_in_two_encodings_at_once(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    text = voc_xml(40, 30, DOG).encode("utf-16-le")
    (tmp_path / "Annotations" / "a.xml").write_bytes(b"\xef\xbb\xbf" + text)
    with pytest.raises(BadData, match="it holds zero bytes, so it is no text"):
        open_split(tmp_path)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "idna"])
def test_encodings_that_are_none(tmp_path: Path, encoding: str) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    text = f'<?xml version="1.0" encoding="{encoding}"?>{voc_xml(40, 30, DOG)}\u87ba'
    (tmp_path / "Annotations" / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(BadData, match=r"a\.xml: cannot be read as XML: "):
        open_split(tmp_path)


NAMES = [
    "with space",
    "quote'\"",
    "line\nbreak",
    "\u87ba\u6813",
    "-dash",
    "x" * 200,
    "a 1",
    "\u2028",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_file_names(tmp_path: Path, name: str) -> None:
    """Read where the format can hold the name; else told in printable lines."""
    root = tmp_path / f"set {name[:20]}"
    table = coco_table()
    for row, own in zip(table["images"], (f"{name}.jpg", "b.jpg"), strict=True):
        row["file_name"] = own
    write_coco(root / "coco", table)
    write_image(root / "coco" / "train2017" / f"{name}.jpg", 40, 30)
    assert open_split(f"coco:{root / 'coco'}").records[0].path.name == f"{name}.jpg"
    (root / "coco" / "train2017" / f"{name}.jpg").unlink()
    with pytest.raises(BadData) as error:
        open_split(root / "coco")
    assert str(error.value).isprintable()
    write_yolo(root / "yolo", {name: BOX})
    assert open_split(root / "yolo").records[0].labels.tolist() == [1]
    if "\n" not in name:
        write_voc(root / "voc", {name: (40, 30, DOG)})
        assert open_split(root / "voc").records[0].path.stem == name


def test_lists_of_one_class(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG), "b 1": (40, 30, DOG)})
    (tmp_path / "ImageSets" / "Main" / "dog_train.txt").write_text("a -1\nb 1  1\n")
    stems = [record.path.stem for record in open_split(tmp_path, "dog_train").records]
    assert stems == ["a", "b 1"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("[" * 200_000, "it is a list, not an object"),
        ('{"images": ' + "[" * 200_000, "nested too deeply"),
        ('{"images": ' + '{"a":' * 200_000, "nested too deeply"),
        ('{"images": [' + "9" * 5000 + "]}", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
    ],
)
def test_json_bombs(tmp_path: Path, data: str, says: str) -> None:
    write_coco(tmp_path, coco_table())
    (tmp_path / "annotations" / "instances_train2017.json").write_text(data)
    with pytest.raises(BadData, match=says) as error:
        open_split(tmp_path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("coco", "annotations/instances_train2017.json"),
        ("voc", "Annotations/a.xml"),
        ("yolo", "labels/train/a.txt"),
        ("yolo", "images/train/a.jpg"),
    ],
)
def test_pipes_and_devices_are_refused(tmp_path: Path, kind: str, path: str) -> None:
    if kind == "coco":
        write_coco(tmp_path, coco_table())
    elif kind == "voc":
        write_voc(tmp_path, {"a": (40, 30, DOG)})
    else:
        write_yolo(tmp_path, {"a": BOX, "b": BOX})
    for make in (os.mkfifo, lambda at: os.symlink("/dev/zero", at)):
        (tmp_path / path).unlink()
        make(tmp_path / path)
        with pytest.raises(BadData, match="a pipe or a device, not a file"):
            open_split(f"{kind}:{tmp_path}")


def test_hidden_copies_of_macos_are_passed_over(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco", coco_table())
    (coco / "annotations" / "._instances_train2017.json").write_bytes(b"\0\5\26\7")
    assert len(open_split(coco).records) == 2
    yolo = write_yolo(tmp_path / "yolo", {"a": BOX})
    (yolo / "images" / "train" / "._a.jpg").write_bytes(b"\0\5\26\7")
    (yolo / "._data.yaml").write_bytes(b"\0\5\26\7")
    assert len(open_split(yolo).records) == 1
    voc = write_voc(tmp_path / "voc", {"a": (40, 30, DOG)})
    (voc / "JPEGImages" / "._a.jpg").write_bytes(b"\0\5\26\7")
    (voc / "ImageSets" / "Main" / "._train.txt").write_bytes(b"\0\5\26\7")
    assert len(open_split(voc).records) == 1


def test_linked_folders_are_read(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "set", {"a": BOX})
    write_image(tmp_path / "other" / "c.jpg", 40, 30)
    (root / "images" / "train" / "sub").symlink_to(tmp_path / "other")
    (root / "images" / "train" / "loop").symlink_to(root / "images")
    (root / "labels" / "train" / "sub").mkdir()
    (root / "labels" / "train" / "sub" / "c.txt").write_text(BOX)
    split = open_split(root)
    assert [record.path.name for record in split.records] == ["a.jpg", "c.jpg"]
    assert split.unlabelled == 0


def test_a_relative_folder_is_told_with_what_it_is_relative_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData) as error:
        open_split("sets/mine")
    assert f"no such data set folder in {tmp_path}" in str(error.value)
    for spec, says in (
        ("C:\\sets\\mine", "it is a path of Windows"),
        ("~nobody-of-this-name/x", "cannot be read"),
        ("x" * 5000, "cannot be read|no such data set folder"),
        ("a\0b", "no such data set folder|cannot be read"),
    ):
        with pytest.raises(BadData, match=says) as error:
            open_split(spec)
        assert str(error.value).isprintable()


def test_what_is_there_instead_is_told(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for stem in "ab":
        write_image(flat / f"{stem}.tif", 40, 30)
        (flat / f"{stem}.xml").write_text(voc_xml(40, 30, DOG))
    with pytest.raises(BadData, match=r"neither a VOC folder .*; it holds 2 \.tif, 2 \.xml"):
        open_split(flat)
    voc = write_voc(tmp_path / "voc", {"a": (40, 30, DOG)})
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(BadData, match=r"ImageSets/Main/train\.txt was looked for, .*; it is empty"):
        open_split(voc)
    (voc / "ImageSets" / "Main").rmdir()
    (voc / "ImageSets").rmdir()
    with pytest.raises(BadData, match=r"was looked for, .*; there is no .*ImageSets"):
        open_split(voc)
    other = write_voc(tmp_path / "other", {"a": (40, 30, DOG)})
    (other / "JPEGImages").rename(other / "images")
    with pytest.raises(BadData, match=r"no JPEGImages folder for its images; it holds .*images/"):
        open_split(other)


def test_images_of_any_kind_beside_xml(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (40, 30, DOG)})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    write_image(tmp_path / "JPEGImages" / "a.tif", 40, 30)
    assert open_split(tmp_path).records[0].path.name == "a.tif"


def test_labels_that_lie_elsewhere(tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "case", {"a": BOX})
    (root / "labels").rename(root / "Labels")
    with pytest.raises(BadData, match=r"labels were looked for in .*labels/train/a\.txt .*Labels/"):
        open_split(root)
    beside = write_yolo(tmp_path / "beside", {"a": BOX, "b": BOX})
    (beside / "labels" / "train" / "b.txt").rename(beside / "images" / "train" / "b.txt")
    with pytest.raises(
        BadData, match=r"b\.jpg: its labels lie beside it, in b\.txt; they are look"
    ):
        open_split(beside)
    flat = write_yolo(tmp_path / "flat", {"a": None})
    (flat / "images").rename(flat / "pictures")
    (flat / "pictures" / "train" / "a.txt").write_text(BOX)
    (flat / "data.yaml").write_text("train: pictures/train\nnames: [cat, dog]\n")
    assert open_split(flat).records[0].labels.tolist() == [1]


def test_paths_of_windows(tmp_path: Path) -> None:
    table = coco_table()
    for row in table["images"]:
        row["file_name"] = "train2017\\" + row["file_name"]
    coco = write_coco(tmp_path / "coco", table)
    assert [r.path.name for r in open_split(coco).records] == ["a.jpg", "b.jpg"]
    for row in table["images"]:
        row["file_name"] = "C:\\shots\\" + row["file_name"]
    with pytest.raises(BadData, match=r"such as '.*a\.jpg' \(a whole path, perhaps another mach"):
        open_split(write_coco(tmp_path / "whole", table))
    yolo = write_yolo(tmp_path / "yolo", {"a": BOX})
    table = {"train": "images\\train", "names": ["cat", "dog"]}
    (yolo / "data.yaml").write_text(yaml.safe_dump(table))
    assert len(open_split(yolo).records) == 1
    (yolo / "list.txt").write_text("images\\train\\a.jpg\r\n")
    (yolo / "data.yaml").write_text(yaml.safe_dump(table | {"train": "list.txt"}))
    assert len(open_split(yolo).records) == 1
    (yolo / "data.yaml").write_text(yaml.safe_dump(table | {"train": "D:\\sets\\train"}))
    with pytest.raises(BadData, match="a path of Windows"):
        open_split(yolo)
