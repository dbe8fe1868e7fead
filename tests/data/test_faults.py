"""Each fault of COCO and VOC sets is reported, counted and skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_writers import coco_table, voc_xml, write_coco, write_image, write_voc
from PIL import ImageFile, WebPImagePlugin

from scalewise.data import BadData, open_split
from scalewise.lab.data.image_header import read_header

Table = dict[str, Any]


def _set(list_name: str, row: int, **values: object) -> Callable[[Table], None]:
    return lambda table: table[list_name][row].update(values)


def _drop(list_name: str, row: int, key: str) -> Callable[[Table], None]:
    return lambda table: table[list_name][row].pop(key)


def _add(list_name: str, **row: object) -> Callable[[Table], None]:
    return lambda table: table[list_name].append(row)


_BOX = {"image_id": 9, "category_id": 3, "bbox": [1, 1, 2, 2]}

# change to a sound table, expected message, kind of fault
COCO_FAULTS = [
    (
        _set("annotations", 0, bbox=[1, 2, float("nan"), 4]),
        "box (1, 2, nan, 6) is not finite",
        "bad box",
    ),
    (_set("annotations", 0, bbox=[1, 2, float("inf"), 4]), "is not finite", "bad box"),
    (
        _set("annotations", 0, bbox=[9, 2, -3, 4]),
        "box (9, 2, 6, 6) has negative width or height",
        "bad box",
    ),
    (_set("annotations", 0, bbox=[1, 2, 3, 0]), "box (1, 2, 4, 2) has zero area", "bad box"),
    (
        _set("annotations", 0, bbox=[1, 2, 3]),
        "annotation 1 (image a.jpg): bbox [1, 2, 3] is not four numbers",
        "bad box",
    ),
    (_set("annotations", 0, bbox=["1", 2, 3, 4]), "is not four numbers", "bad box"),
    (_set("annotations", 0, area=-1), "area -1 is not a finite number", "bad box"),
    (
        _set("annotations", 0, bbox=[40, 2, 3, 4]),
        "box (40, 2, 43, 6) lies outside the 40x30 image",
        "box outside image",
    ),
    (
        _set("annotations", 0, category_id=4),
        "annotation 1: category id 4 is not in 'categories'",
        "unknown class",
    ),
    (
        _set("annotations", 0, image_id=77),
        "annotation 1: image id 77 is not in 'images'",
        "unknown image",
    ),
    (
        _add("annotations", id=1, **_BOX),
        "annotation 1: annotation id 1 is given twice",
        "duplicate id",
    ),
    (_drop("annotations", 0, "bbox"), "annotations[0]: lacks 'bbox' (list)", "missing field"),
    (_drop("annotations", 0, "id"), "annotations[0]: lacks 'id' (int)", "missing field"),
    (
        _set("annotations", 0, image_id="5"),
        "annotations[0]: its image_id '5' is not a whole number",
        "bad id",
    ),
    (
        _add("images", id=5, file_name="b.jpg", width=40, height=30),
        "images[2]: image id 5 is given twice",
        "duplicate id",
    ),
    (
        _add("images", id=6, file_name="c.jpg", width=40),
        "images[2]: lacks 'height' (int)",
        "missing field",
    ),
    (
        _add("images", id=6, file_name="c.jpg", width=40, height=30),
        "c.jpg: no such image file",
        "missing image",
    ),
    (
        _set("images", 0, width=41),
        "a.jpg: is 40x30 pixels, its annotation says 41x30",
        "size mismatch",
    ),
]


@pytest.mark.parametrize(("change", "message", "kind"), COCO_FAULTS)
def test_coco_faults(
    tmp_path: Path, change: Callable[[Table], None], message: str, kind: str
) -> None:
    table = coco_table()
    change(table)
    write_coco(tmp_path, table)
    with pytest.raises(BadData) as error:
        open_split(tmp_path)
    text = str(error.value)
    assert message in text
    assert str(tmp_path) in text
    assert "--skip-bad" in text
    assert "\n" not in text
    with pytest.warns(UserWarning, match=f"skipped 1 {kind}"):
        split = open_split(tmp_path, skip_bad=True)
    assert split.skipped_counts == {kind: 1}
    assert len(split.skipped) == 1
    assert message in split.skipped[0]
    assert split.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_add("categories", id=3, name="cow"), "categories[2]: category id 3 is given twice"),
        (_add("categories", id=4, name="dog"), "category name 'dog' is given twice"),
        (_add("categories", id=4), "categories[2] lacks 'name' (str)"),
        (lambda table: table["images"].append(5), "everything: it is not a JSON object"),
        (lambda table: table.pop("annotations"), "it has no list 'annotations'"),
        (lambda table: table["annotations"].clear(), "has 2 images and no object to learn from"),
        (lambda table: table["images"].clear(), "image id 5 is not in 'images'"),
    ],
)
def test_coco_faults_of_the_whole_file(
    tmp_path: Path, change: Callable[[Table], None], message: str
) -> None:
    table = coco_table()
    change(table)
    with pytest.raises(BadData) as error:
        open_split(write_coco(tmp_path, table))
    assert message in str(error.value)
    assert "instances_train2017.json" in str(error.value)


def test_crowds_alone_are_nothing_to_learn_from(tmp_path: Path) -> None:
    table = coco_table()
    for row in table["annotations"]:
        row["iscrowd"] = 1
    with pytest.raises(BadData, match="no object to learn from"):
        open_split(write_coco(tmp_path, table))


def test_broken_json(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_table())
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(BadData, match=r"instances_train2017\.json: cannot be read as JSON"):
        open_split(tmp_path)


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_table())
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "train2017" / name).unlink()
    with pytest.raises(BadData, match=r"its images, such as 'a\.jpg', are in none of: .*images"):
        open_split(tmp_path)


def _replace(path: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / path).write_bytes(data)


def _xml(*objects: tuple[str, tuple[float, float, float, float]]) -> str:
    return voc_xml(40, 30, list(objects))


_BOMB = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'

VOC_FAULTS = [
    (
        lambda root: (root / "JPEGImages/a.jpg").unlink(),
        "a.jpg: no such image file",
        "missing image",
    ),
    (
        _replace("JPEGImages/a.jpg", b"no image"),
        "a.jpg: cannot be read as an image",
        "unreadable image",
    ),
    (_replace("JPEGImages/a.jpg", b""), "a.jpg: cannot be read as an image", "unreadable image"),
    (
        lambda root: write_image(root / "JPEGImages/a.jpg", 30, 40),
        "a.jpg: is 30x40 pixels, its annotation says 40x30",
        "size mismatch",
    ),
    (
        lambda root: (root / "Annotations/a.xml").unlink(),
        "a.xml: no such annotation file",
        "missing annotation",
    ),
    (_replace("Annotations/a.xml", "<annotation>"), "a.xml: cannot be read as XML", "broken file"),
    (
        _replace("Annotations/a.xml", _BOMB),
        "a.xml: cannot be read as XML: EntitiesForbidden",
        "broken file",
    ),
    (
        _replace("Annotations/a.xml", "<annotation/>"),
        "a.xml: its size/width or size/height is missing",
        "broken file",
    ),
    (
        _replace("Annotations/a.xml", voc_xml(40, 0, [])),
        "a.xml: its size/width or",
        "broken file",
    ),
    (
        _replace("Annotations/a.xml", _xml(("", (1, 1, 9, 9)))),
        "a.xml, object 1: its name or a number in bndbox is missing",
        "missing field",
    ),
    (
        _replace("Annotations/a.xml", _xml(("dog", (1, 1, 9, 9))).replace("<xmin>1", "<xmin>")),
        "or a number in bndbox",
        "missing field",
    ),
    (
        _replace("Annotations/a.xml", _xml(("dog", (5, 5, 5, 9)))),
        "object 1 (dog): box (5, 5, 5, 9) has zero area",
        "bad box",
    ),
    (
        _replace("Annotations/a.xml", _xml(("dog", (5, 5, 4, 9)))),
        "has negative width or height",
        "bad box",
    ),
    (
        _replace("Annotations/a.xml", _xml(("dog", (5, 5, float("nan"), 9)))),
        "is not finite",
        "bad box",
    ),
    (
        _replace("Annotations/a.xml", _xml(("dog", (41, 5, 44, 9)))),
        "lies outside the 40x30 image",
        "box outside image",
    ),
    (
        _replace("ImageSets/Main/train.txt", "a\nb\n\na\n"),
        "train.txt, line 4: image 'a' is listed twice",
        "duplicate image",
    ),
]


@pytest.mark.parametrize(("damage", "message", "kind"), VOC_FAULTS)
def test_voc_faults(
    tmp_path: Path, damage: Callable[[Path], object], message: str, kind: str
) -> None:
    dog = [("dog", (2.0, 2.0, 9.0, 9.0))]
    write_voc(tmp_path, {"a": (40, 30, dog), "b": (40, 30, dog)})
    damage(tmp_path)
    with pytest.raises(BadData) as error:
        open_split(tmp_path)
    assert message in str(error.value)
    with pytest.warns(UserWarning, match=f"skipped 1 {kind}"):
        split = open_split(tmp_path, skip_bad=True)
    assert split.skipped_counts == {kind: 1}
    assert split.records[-1].path.stem == "b"


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_truncated_images_are_told_from_trailing_bytes(tmp_path: Path, suffix: str) -> None:
    dog = [("dog", (2.0, 2.0, 9.0, 9.0))]
    write_voc(tmp_path, {"a": (40, 30, dog)})
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    image = tmp_path / "JPEGImages" / f"a.{suffix}"
    write_image(image, 40, 30)
    whole = image.read_bytes()
    image.write_bytes(whole + b"\0\0")
    assert open_split(tmp_path).records
    image.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(BadData, match=rf"a\.{suffix}: cannot be read as an image"):
        open_split(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_whole_images_are_checked_without_being_decoded(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_image(path, 40, 31)
    for kind in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(kind, "load", lambda self: pytest.fail("decoded"))
    assert read_header(path)[:2] == (40, 31)
    whole = path.read_bytes()
    for doubtful in (whole + b"\0", whole[:-40] + bytes(40)):
        path.write_bytes(doubtful)
        with pytest.raises(pytest.fail.Exception, match="decoded"):
            read_header(path)


def test_many_faults_are_shown_in_part_and_counted(tmp_path: Path) -> None:
    table = coco_table()
    for number in range(7):
        table["annotations"].append({"id": 10 + number, **_BOX, "bbox": [1, 1, 0, 5]})
    table["annotations"].append({"id": 50, **_BOX, "category_id": 1})
    write_coco(tmp_path, table)
    with pytest.raises(BadData) as error:
        open_split(tmp_path)
    lines = str(error.value).splitlines()
    assert "8 faults: 7 bad boxes, 1 unknown class" in lines[0]
    assert len(lines) == 1 + 5 + 1
    assert lines[-1].strip() == "and 3 more"


def test_overhanging_boxes_are_clipped_and_counted(tmp_path: Path) -> None:
    table = coco_table()
    table["annotations"][0]["bbox"] = [-2, 25, 10, 8]
    split = open_split(write_coco(tmp_path, table))
    assert split.records[0].boxes[0].tolist() == [0, 25, 8, 30]
    assert split.clipped == 1
    assert "1 boxes clipped" in split.describe()
    assert not split.skipped


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"nowhere: no such data set folder"):
        open_split(tmp_path / "nowhere")
    with pytest.raises(BadData, match=r"neither a VOC folder .* nor a COCO folder"):
        open_split(tmp_path)
    with pytest.raises(BadData, match="not a VOC folder: there is no Annotations"):
        open_split(f"voc:{tmp_path}")
    with pytest.raises(BadData, match="no split 'train'; the annotation files there hold: none"):
        open_split(f"coco:{tmp_path}")
