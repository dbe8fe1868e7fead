"""How many faults a reader tolerates, and which faults always stop it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_writers import (
    write_many_boxes,
    write_voc,
)

from scalewise.data import BadData, open_split
from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.option_check import check

DOG = [("dog", (2.0, 2.0, 9.0, 9.0))]


def test_under_one_percent_is_left_out_and_named(tmp_path: Path) -> None:
    root = write_many_boxes(tmp_path / "few", 101, bbox=[1, 1, 0, 5])
    with pytest.warns(UserWarning, match=r"skipped 1 bad box: .*annotation 100 .* zero area"):
        split = open_split(root)
    assert split.skipped_counts == {"bad box": 1}
    assert len(split.records[0].boxes) == 100
    with pytest.raises(BadData, match="zero area"):
        open_split(root, strict=True)
    exactly = write_many_boxes(tmp_path / "exactly", 100, bbox=[1, 1, 0, 5])
    with pytest.raises(BadData, match="zero area"):
        open_split(exactly)


def test_classes_and_ids_stop_even_if_few(tmp_path: Path) -> None:
    for number, change in enumerate(({"category_id": 5}, {"image_id": 5}, {"id": 3})):
        root = write_many_boxes(tmp_path / str(number), 300, **change)
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


def test_an_image_without_a_size_counts_as_a_lost_image(tmp_path: Path) -> None:
    """One image of ten is too many, even if it is under 1 % of the objects."""
    boxes = [("dog", (float(x), float(y), x + 3.0, y + 3.0)) for x in range(1, 9) for y in (1, 9)]
    write_voc(tmp_path, {str(number): (40, 30, boxes) for number in range(10)})
    xml = tmp_path / "Annotations" / "3.xml"
    xml.write_text(xml.read_text().replace("<width>40</width>", ""))
    with pytest.raises(BadData, match=r"3\.xml: its size/width or size/height is missing"):
        open_split(tmp_path)


def test_the_first_three_are_named(tmp_path: Path) -> None:
    root = write_many_boxes(tmp_path, 600)
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
