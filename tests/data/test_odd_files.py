"""Files with unexpected names, links or spelling are found or reported."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from dataset_writers import coco_table, voc_xml, write_coco, write_image, write_voc, write_yolo
from PIL import Image

from scalewise.data import BadData, load_image, open_split
from scalewise.lab.data.image_files import walk

DOG = [("dog", (2.0, 2.0, 9.0, 9.0))]
BOX = "1 0.5 0.5 0.5 0.4\n"
CAFE, TAKEN_APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("listed", "stored"), [(CAFE, TAKEN_APART), (TAKEN_APART, CAFE)])
def test_accents_stored_apart_from_their_letters_are_the_same_name(
    tmp_path: Path, listed: str, stored: str
) -> None:
    voc = write_voc(tmp_path / "voc", {stored: (40, 30, DOG), "b": (40, 30, DOG)})
    (voc / "ImageSets" / "Main" / "train.txt").write_text(f"{listed}\nb\n")
    table = coco_table()
    table["images"][0]["file_name"] = f"{listed}.jpg"
    coco = write_coco(tmp_path / "coco", table)
    (coco / "train2017" / "a.jpg").rename(coco / "train2017" / f"{stored}.jpg")
    yolo = write_yolo(tmp_path / "yolo", {stored: None, "b": BOX})
    (yolo / "labels" / "train" / f"{listed}.txt").write_text(BOX)
    yolo_list = write_yolo(tmp_path / "list", {stored: BOX})
    (yolo_list / "train.txt").write_text(f"images/train/{listed}.jpg\n")
    (yolo_list / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]\n")
    for root, images in ((voc, 2), (coco, 2), (yolo, 2), (yolo_list, 1)):
        split = open_split(root)
        assert (len(split.records), split.skipped, split.unlabelled) == (images, [], 0)
        assert all(len(record.boxes) for record in split.records)


def test_classes_spelled_with_accents_apart_or_blanks_are_one(tmp_path: Path) -> None:
    """Otherwise half of a class's objects would be a second class that looks the same."""
    boxes = [(CAFE, (2.0, 2.0, 9.0, 9.0)), (f" {TAKEN_APART}", (3.0, 3.0, 9.0, 9.0))]
    voc = open_split(write_voc(tmp_path / "voc", {"a": (40, 30, boxes)}))
    assert voc.classes == (CAFE,)
    assert voc.records[0].labels.tolist() == [0, 0]
    for number, (one, other) in enumerate(((CAFE, TAKEN_APART), ("cat", "cat "))):
        table = coco_table()
        table["categories"] = [{"id": 7, "name": one}, {"id": 3, "name": other}]
        with pytest.raises(BadData, match=r"categories\[1\]: category name .* is given twice"):
            open_split(write_coco(tmp_path / str(number), table))
    yolo = write_yolo(tmp_path / "yolo", {"a": BOX})
    (yolo / "data.yaml").write_text(f"train: images/train\nnames: ['{CAFE}', '{TAKEN_APART}']\n")
    with pytest.raises(BadData, match="is named twice"):
        open_split(yolo)


@pytest.mark.parametrize("named", ["", "a.png", "a.bmp", "elsewhere.jpg"])
def test_of_several_images_of_one_stem_the_named_one_counts_else_jpg(
    tmp_path: Path, named: str
) -> None:
    root = write_voc(tmp_path, {"a": (40, 30, DOG)})
    for suffix in ("bmp", "png", "webp"):
        write_image(root / "JPEGImages" / f"a.{suffix}", 40, 30)
    xml = voc_xml(40, 30, DOG).replace("<size>", f"<filename>{named}</filename><size>")
    (root / "Annotations" / "a.xml").write_text(xml)
    expected = named if named in ("a.png", "a.bmp") else "a.jpg"
    assert [record.path.name for record in open_split(root).records] == [expected]


def test_lists_may_name_sub_folders(tmp_path: Path) -> None:
    """`sub/a` is not the `a.jpg` in the folder above."""
    root = write_voc(tmp_path, {"a": (20, 10, DOG)})
    (root / "Annotations" / "sub").mkdir()
    (root / "Annotations" / "sub" / "a.xml").write_text(voc_xml(40, 30, DOG))
    write_image(root / "JPEGImages" / "sub" / "a.jpg", 40, 30)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nsub/a\n")
    sizes = [(record.width, record.height) for record in open_split(root).records]
    assert sizes == [(20, 10), (40, 30)]


def test_a_link_to_itself_is_a_missing_picture_not_the_end(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    images = root / "images" / "train"
    (images / "loop.jpg").symlink_to("loop.jpg")
    (images / "gone.jpg").symlink_to("nowhere.jpg")
    (images / "loop").symlink_to("loop")
    assert {path.name for path in walk(images)} == {
        "a.jpg",
        "b.jpg",
        "loop.jpg",
        "gone.jpg",
        "loop",
    }
    with pytest.warns(UserWarning, match="skipped") as warned:
        split = open_split(root, skip_bad=True)
    assert [record.path.name for record in split.records] == ["a.jpg", "b.jpg"]
    assert split.skipped_counts == {"missing image": 1, "unreadable image": 1}
    assert "loop.jpg" in str(warned[0].message)
    assert "gone.jpg" in str(warned[0].message)


def test_a_folder_that_cannot_be_listed_is_named_with_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is simulated, because root may read any folder."""
    root = write_yolo(tmp_path, {"a": BOX})
    locked = root / "images" / "train" / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(BadData, match=r"cannot be read: Permission denied \('.*locked'\)"):
        open_split(root)
    lines: list[str] = []
    assert [path.name for path in walk(root / "images", lines)] == ["a.jpg"]
    assert lines == [f"{locked}: cannot be listed: Permission denied"]


@pytest.mark.parametrize("fault", ["upper case", "link to nothing", "no text"])
def test_labels_that_are_not_read_do_not_make_an_empty_image(tmp_path: Path, fault: str) -> None:
    """Such an image would teach that it has no objects."""
    root = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    file = root / "labels" / "train" / "a.txt"
    match fault:
        case "upper case":
            file.rename(file.with_suffix(".TXT"))
        case "link to nothing":
            file.unlink()
            file.symlink_to("nowhere.txt")
        case _:
            file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadData, match=r"a\.(jpg|txt)"):
        open_split(root)
    with pytest.warns(UserWarning, match="skipped 1 (misplaced labels|broken file)"):
        split = open_split(root, skip_bad=True)
    assert [record.path.name for record in split.records] == ["b.jpg"]
    assert split.unlabelled == 0


def test_copies_in_hidden_folders_are_no_part_of_a_yolo_set(tmp_path: Path) -> None:
    """Jupyter keeps copies without labels there; Ultralytics ignores them too."""
    root = write_yolo(tmp_path / ".data", {"a": BOX})
    hidden = root / "images" / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(root / "images" / "train" / "a.jpg", hidden / "a-checkpoint.jpg")
    split = open_split(root)
    assert [record.path.name for record in split.records] == ["a.jpg"]
    assert split.unlabelled == 0


def test_formats_that_cannot_be_read_are_told_not_passed_over(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": BOX})
    for suffix in ("jxl", "exr", "heic"):
        (root / "images" / "train" / f"b.{suffix}").write_bytes(b"content")
    with pytest.warns(UserWarning, match="skipped 3 unreadable images"):
        open_split(root, skip_bad=True)


def test_objects_without_a_box_are_counted(tmp_path: Path) -> None:
    """Objects with only a mask, or without a valid box, are counted faults."""
    table = coco_table()
    rows = [{"id": 10 + i, "image_id": 9, "category_id": 7} for i in range(5)]
    rows[0]["segmentation"] = {"counts": [1, 2], "size": [30, 40]}  # type: ignore[assignment]
    for row, box in zip(rows[1:], (None, [], [[1, 2, 3, 4]], [1, 2, 3, True]), strict=True):
        row["bbox"] = box  # type: ignore[assignment]
    table["annotations"] += rows
    root = write_coco(tmp_path, json.loads(json.dumps(table)))
    with pytest.warns(UserWarning, match="skipped"):
        split = open_split(root, skip_bad=True)
    assert split.skipped_counts == {"missing field": 2, "bad box": 3}
    assert sum(len(record.boxes) for record in split.records) == 3


def test_orientation_of_avif_is_that_of_other_formats(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    try:
        Image.fromarray(pixels).save(tmp_path / "a.avif", exif=exif, quality=100)
    except (OSError, KeyError):
        pytest.skip("Pillow was built without AVIF")
    assert load_image(tmp_path / "a.avif").shape == (40, 30, 3)
