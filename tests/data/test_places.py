"""Where images and labels are found: odd names, links, pipes, foreign paths, other layouts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from dataset_writers import coco_table, voc_xml, write_coco, write_image, write_voc, write_yolo

from scalewise.data import BadData, open_split

DOG = [("dog", (2.0, 2.0, 9.0, 9.0))]
BOX = "1 0.5 0.5 0.5 0.4"


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
    """Odd names are read if the format can hold them, else reported in printable lines."""
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
    """A mark after the image's name is understood."""
    write_voc(tmp_path, {"a": (40, 30, DOG), "b 1": (40, 30, DOG)})
    (tmp_path / "ImageSets" / "Main" / "dog_train.txt").write_text("a -1\nb 1  1\n")
    stems = [record.path.stem for record in open_split(tmp_path, "dog_train").records]
    assert stems == ["a", "b 1"]


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
        ("C:\\sets\\mine", "it is a Windows path"),
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
    with pytest.raises(BadData, match=r"no .*ImageSets/Main/train\.txt, a list .*; it is empty"):
        open_split(voc)
    (voc / "ImageSets" / "Main").rmdir()
    (voc / "ImageSets").rmdir()
    with pytest.raises(BadData, match=r"train\.txt, a list .*; there is no .*ImageSets"):
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
    with pytest.raises(BadData, match=r"such as '.*a\.jpg' \(an absolute path, perhaps from ano"):
        open_split(write_coco(tmp_path / "whole", table))
    yolo = write_yolo(tmp_path / "yolo", {"a": BOX})
    table = {"train": "images\\train", "names": ["cat", "dog"]}
    (yolo / "data.yaml").write_text(yaml.safe_dump(table))
    assert len(open_split(yolo).records) == 1
    (yolo / "list.txt").write_text("images\\train\\a.jpg\r\n")
    (yolo / "data.yaml").write_text(yaml.safe_dump(table | {"train": "list.txt"}))
    assert len(open_split(yolo).records) == 1
    (yolo / "data.yaml").write_text(yaml.safe_dump(table | {"train": "D:\\sets\\train"}))
    with pytest.raises(BadData, match="a Windows path"):
        open_split(yolo)
