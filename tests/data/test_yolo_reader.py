"""YOLO data sets, compared with what Ultralytics reads from the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from dataset_writers import write_image, write_yolo

from scalewise.data import BadData, DetectionDataset, open_split

BOX = "1 0.5 0.5 0.5 0.4"  # in 40x30 pixels: x 10 to 30, y 9 to 21


def test_records(tmp_path: Path) -> None:
    polygon = "0 0.1 0.2 0.5 0.1 0.3 0.9"
    folder = write_yolo(
        tmp_path, {"a": f"{BOX}\n{polygon}\n", "b": "\ufeff" + BOX, "c": "", "d": None}
    )
    split = open_split(folder)
    assert (split.format, split.classes, split.category_ids) == ("yolo", ("cat", "dog"), (0, 1))
    first, second, third, fourth = split.records
    assert (first.image_id, first.path) == (1, folder / "images" / "train" / "a.jpg")
    assert (first.width, first.height) == (40, 30)
    np.testing.assert_allclose(first.boxes, [[10, 9, 30, 21], [4, 3, 20, 27]], rtol=1e-6)
    assert first.labels.tolist() == [1, 0]
    assert second.labels.tolist() == [1]
    assert (len(third.boxes), len(fourth.boxes), split.unlabelled) == (0, 0, 1)
    assert "1 images without a label file taken as empty" in split.describe()
    item = DetectionDataset(split, 80, augment=False)[0]
    np.testing.assert_allclose(item.boxes, [[20, 18, 60, 42], [8, 6, 40, 54]], rtol=1e-6)


@pytest.mark.parametrize("polygons", [False, True])
def test_as_ultralytics_reads_it(tmp_path: Path, polygons: bool) -> None:
    """Boxes and classes are those of Ultralytics' own data set."""
    dataset = pytest.importorskip("ultralytics.data.dataset", reason="needs Ultralytics")
    draw = np.random.default_rng(0)
    images = tmp_path / "images" / "train"
    (tmp_path / "labels" / "train").mkdir(parents=True)
    for number in range(12):
        write_image(images / f"{number:02}.jpg", int(draw.integers(30, 60)), 30 + number)
        rows = []
        for _ in range(number % 5):
            if polygons:
                values = draw.uniform(0, 1, 2 * int(draw.integers(3, 9)))
            else:
                values = np.concatenate([draw.uniform(0.3, 0.7, 2), draw.uniform(0.01, 0.6, 2)])
            rows.append(f"{draw.integers(3)} " + " ".join(f"{value:.6f}" for value in values))
        (tmp_path / "labels" / "train" / f"{number:02}.txt").write_text("\n".join(rows))
    data = {"train": "images/train", "names": {0: "a", 1: "b", 2: "c"}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    ours = {record.path.name: record for record in open_split(tmp_path).records}
    theirs = dataset.YOLODataset(img_path=str(images), data={**data, "channels": 3}, imgsz=64)
    assert len(ours) == len(theirs.labels) == 12
    for label in theirs.labels:
        record = ours[Path(label["im_file"]).name]
        assert (record.height, record.width) == label["shape"]
        center, size = label["bboxes"][:, :2], label["bboxes"][:, 2:]
        corners = np.concatenate([center - size / 2, center + size / 2], 1).clip(0, 1)
        expected = corners * [record.width, record.height, record.width, record.height]
        order, mine = np.lexsort(expected.T), np.lexsort(record.boxes.T)
        np.testing.assert_allclose(record.boxes[mine], expected[order], atol=1e-3)
        assert record.labels[mine].tolist() == label["cls"][order, 0].tolist()


@pytest.mark.parametrize(
    "where", ["folder", "file", "prefix", "list", "text", "roboflow", "moved", "other name"]
)
def test_places(tmp_path: Path, where: str) -> None:
    """The data set is found by folder, file or prefix, and with each layout of its paths."""
    root = write_yolo(tmp_path / "set", {"a": BOX})
    spec, file, table = str(root), root / "data.yaml", {"names": ["cat", "dog"]}
    if where == "file":
        spec = str(file)
    elif where == "prefix":
        (root / "Annotations").mkdir()
        spec = f"yolo:{root}"
    elif where == "list":
        (root / "more").mkdir()
        file.write_text(yaml.safe_dump({**table, "train": ["more", "images"]}))
    elif where == "text":
        (root / "train.txt").write_text("./images/train/a.jpg\n\n")
        file.write_text(yaml.safe_dump({**table, "train": "train.txt"}))
    elif where == "roboflow":
        file.write_text(yaml.safe_dump({**table, "train": "../images/train"}))
    elif where == "moved":
        file.write_text(yaml.safe_dump({**table, "train": "images", "path": "../datasets/set"}))
    elif where == "other name":
        (root / "args.yaml").write_text("model: yolo11n.yaml\n")
        file.rename(root / "pets.yml")
    split = open_split(spec)
    assert [record.path.resolve() for record in split.records] == [
        root / "images" / "train" / "a.jpg"
    ]
    assert split.records[0].labels.tolist() == [1]


def test_splits_by_name(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_yolo(tmp_path, {split: BOX}, split)
    table = {"train": "images/train", "valid": "images/valid", "names": ["cat", "dog"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**table, "test": None}))
    assert open_split(tmp_path, "val").records[0].path.stem == "valid"
    with pytest.raises(BadData, match="no split 'test'; the splits there are: train, valid"):
        open_split(tmp_path, "test")


def test_ids_with_holes_and_keypoints(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": f"7{BOX[1:]} 0.1 0.2 2 0.3 0.4 2"})
    table = {"train": "images/train", "names": {7: "dog", 3: "cat"}, "kpt_shape": [2, 3]}
    (root / "data.yaml").write_text(yaml.safe_dump(table))
    split = open_split(root)
    assert (split.classes, split.category_ids) == (("cat", "dog"), (3, 7))
    assert split.records[0].labels.tolist() == [1]
    np.testing.assert_allclose(split.records[0].boxes, [[10, 9, 30, 21]], rtol=1e-6)


# label line after a sound one, expected message, kind of fault
FAULTS = [
    ("0 0.5 0.5 0.5", "line 2: has 4 columns; a box has 5, a polygon", "broken line"),
    ("0 0.5 0.5 0.5 0.4 0.9", "has 6 columns", "broken line"),
    ("0 0.5 0.5 0.5 0.4 0.9 0.1 0.2", "has 8 columns", "broken line"),
    ("cat 0.5 0.5 0.5 0.4", "'cat 0.5 0.5 0.5 0.4' is not all numbers", "broken line"),
    ("2 0.5 0.5 0.5 0.4", "class id 2 is not in 'names'", "unknown class"),
    ("0.5 0.5 0.5 0.5 0.4", "class id 0.5 is not in 'names'", "unknown class"),
    ("nan 0.5 0.5 0.5 0.4", "class id nan is not in 'names'", "unknown class"),
    ("0 20 15 20 12", "20 is not between 0 and 1", "bad box"),
    ("0 0.5 nan 0.5 0.4", "nan is not between 0 and 1", "bad box"),
    ("0 0.5 -0.2 0.5 0.4", "-0.2 is not between 0 and 1", "bad box"),
    ("0 0.5 0.5 0 0.4", "has zero area", "bad box"),
    ("0 0.5 0.5 -0.001 0.4", "has negative width or height", "bad box"),
    ("0 1.005 0.5 0.008 0.4", "lies outside the 40x30 image", "box outside image"),
    (BOX, "line 2: the object occurs twice", "duplicate object"),
]


@pytest.mark.parametrize(("line", "says", "kind"), FAULTS)
def test_faults(tmp_path: Path, line: str, says: str, kind: str) -> None:
    """A faulty line is reported with its place, counted and skipped."""
    root = write_yolo(tmp_path, {"a": f"{BOX}\n{line}\n"})
    with pytest.raises(BadData) as error:
        open_split(root)
    assert says in str(error.value)
    assert str(root / "labels" / "train" / "a.txt") in str(error.value)
    with pytest.warns(UserWarning, match=kind):
        split = open_split(root, skip_bad=True)
    assert split.skipped_counts == {kind: 1}
    assert split.records[0].labels.tolist() == [1]


def test_faulty_images(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": BOX, "b": BOX, "c": BOX})
    images = root / "images" / "train"
    (images / "c.jpg").write_bytes(b"no image")
    (images / "notes.md").write_text("not an image, nor named like one")
    (root / "train.txt").write_text("\n".join(f"images/train/{s}.jpg" for s in "aabcd"))
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]\n")
    with pytest.raises(BadData, match=r"c\.jpg: cannot be read as an image: its image format"):
        open_split(root)
    with pytest.warns(UserWarning, match="skipped"):
        split = open_split(root, skip_bad=True)
    assert split.skipped_counts == {
        "duplicate image": 1,
        "unreadable image": 1,
        "missing image": 1,
    }
    assert [record.path.stem for record in split.records] == ["a", "b"]


def test_rounding_is_no_cut(tmp_path: Path) -> None:
    split = open_split(write_yolo(tmp_path, {"a": "0 0.5 0.5 1.0001 1\n0 0.05 0.5 0.2 0.5"}))
    assert split.clipped == 1  # the second box, by two pixels
    assert split.records[0].boxes[0].tolist() == [0, 0, 40, 30]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: [", "cannot be read as YAML"),
        ("just words", "not a YOLO data file"),
        ("train: images/train", "'names' is neither a list of class names nor ids with names"),
        ("train: images/train\nnames: [a, a]", "class 'a' is named twice"),
        ("train: images/train\nnames: {one: a}", "has the class id 'one', not a whole number"),
        ("train: images/train\nnames: [a, b]\nkpt_shape: 17", "'kpt_shape' 17 is not two numbers"),
        ("train: images/train\nnames: [a, b]\nkpt_shape: [17]", "is not two numbers"),
        ("train: images/train\nnames: [a, b]\nkpt_shape: [17, 3, 2]", "is not two numbers"),
        ("train: pictures\nnames: [a, b]", "'pictures' is at none of: "),
        ("train: {a: b}\nnames: [a, b]", "'train' is neither a path nor a list of paths"),
        ("val: images/train\nnames: [a, b]", "no split 'train'; the splits there are: val"),
    ],
)
def test_faulty_data_files(tmp_path: Path, text: str, says: str) -> None:
    root = write_yolo(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text(text)
    with pytest.raises(BadData) as error:
        open_split(root)
    assert says in str(error.value)
    assert str(root / "data.yaml") in str(error.value)


def test_which_file(tmp_path: Path) -> None:
    """Two YAML files without a `data.yaml` are ambiguous until one is named."""
    with pytest.raises(BadData, match="not a YOLO data set: there is no data"):
        open_split(f"yolo:{tmp_path}")
    root = write_yolo(tmp_path, {"a": BOX})
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").unlink()
    for name in ("one.yaml", "two.yaml"):
        (root / name).write_text(text)
    with pytest.raises(BadData, match=r"any of .*one\.yaml, .*two\.yaml; name one of them"):
        open_split(root)
    assert len(open_split(root / "two.yaml").records) == 1


def test_classes_by_number_alone(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, {"a": BOX})
    (root / "data.yaml").write_text("train: images/train\nnc: 2\n")
    assert open_split(root).classes == ("class_0", "class_1")


def test_no_labels_at_all(tmp_path: Path) -> None:
    """A set without any label files has nothing to learn from."""
    with pytest.raises(BadData, match="has 2 images and no object to learn from"):
        open_split(write_yolo(tmp_path, {"a": None, "b": None}))
