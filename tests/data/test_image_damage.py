"""Files that are not images, damaged images, and how much damage is tolerated."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_writers import write_coco
from pictures import COLOR, png_chunk

from scalewise.data import BadData, DetectionDataset, load_image, make_loader, open_split
from scalewise.lab.data.faults import FaultFound
from scalewise.lab.data.image_header import read_header

WRONG = [
    ("text.jpg", b"no image", "its image format is not known"),
    ("empty.png", b"", "its image format is not known"),
    ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format is not known"),
]


@pytest.mark.parametrize(("name", "data", "says"), WRONG)
def test_what_is_no_image(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData, match=says) as error:
        load_image(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    COLOR.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(data[:8] + header + data[33:])
    with pytest.raises(BadData, match=r"a\.png: cannot be read as an image: Image size .* exceeds"):
        load_image(tmp_path / "a.png")
    with pytest.raises(FaultFound, match="exceeds"):
        read_header(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif", "bmp"])
def test_any_damage_is_one_line_or_an_image(tmp_path: Path, suffix: str) -> None:
    """A randomly changed file gives an image or one line, never another error or a hang."""
    path = tmp_path / f"a.{suffix}"
    COLOR.save(path)
    whole = path.read_bytes()
    draw = np.random.default_rng(1)
    said = []
    for _ in range(60):
        data = bytearray(whole[: draw.integers(1, len(whole) + 1)])
        for place in draw.integers(0, len(data), draw.integers(1, 4)):
            data[place] = draw.integers(256)
        path.write_bytes(data)
        try:
            assert load_image(path).shape[2] == 3
        except BadData as error:
            said.append(str(error))
    assert said
    assert all(str(path) in line and "\n" not in line for line in said)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
def test_pipes_folders_and_devices_are_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.jpg")
    with pytest.raises(BadData, match="it is a folder, a pipe or a device, not a file"):
        load_image(tmp_path / "a.jpg")


def _damaged_set(root: Path, count: int, damaged: int) -> Path:
    """Write images, some with damage in the middle but a sound header and end mark."""
    names = [f"{number:03}.png" for number in range(count)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 20, 20]} for i in range(count)
    ]
    write_coco(root, {
        "images": [
            {"id": i, "file_name": n, "width": 40, "height": 30} for i, n in enumerate(names)
        ],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "mark"}],
    })  # fmt: skip
    for number, name in enumerate(names):
        COLOR.save(root / "train2017" / name)
        if number < damaged:
            data = bytearray((root / "train2017" / name).read_bytes())
            data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
            (root / "train2017" / name).write_bytes(data)
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_in_the_middle_costs_a_line_not_the_rest(tmp_path: Path, workers: int) -> None:
    """One damaged image of 101 gives a warning; one of four stops loading."""
    few = open_split(_damaged_set(tmp_path / "few", 101, 1))
    dataset = DetectionDataset(few, 40, augment=False)
    loader = make_loader(dataset, 25, shuffle=False, workers=workers)
    if workers:
        batches = list(loader)
    else:
        with pytest.warns(UserWarning, match=r"000\.png: cannot be read as an image: .*; a grey"):
            batches = list(loader)
    assert sum(int(batch.valid.sum()) for batch in batches) == 100
    assert [path.name for path in dataset.damaged] == ["000.png"]
    many = open_split(_damaged_set(tmp_path / "many", 4, 1))
    loader = make_loader(DetectionDataset(many, 40, augment=False), 2, False, workers=workers)
    with pytest.raises(BadData, match=r"^/\S+/000\.png: cannot be read as an image: .*$") as error:
        list(loader)
    assert "\n" not in str(error.value)


def test_how_much_damage_is_borne(tmp_path: Path) -> None:
    """`strict` tolerates no damaged image, `skip_bad` any number."""
    root = _damaged_set(tmp_path, 101, 1)
    with pytest.raises(BadData, match=r"000\.png"):
        DetectionDataset(open_split(root, strict=True), 40, augment=False)[0]
    half = _damaged_set(tmp_path / "half", 4, 2)
    dataset = DetectionDataset(open_split(half, skip_bad=True), 40, augment=False)
    with pytest.warns(UserWarning, match="a grey picture"):
        items = [dataset[index] for index in range(4)]
    assert [len(item.boxes) for item in items] == [0, 0, 1, 1]
    assert items[0].image.float().std(dim=(1, 2)).max() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_told_once_for_all_passes_and_data_sets(
    tmp_path: Path,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Two data sets with two passes each give one warning per image."""

    def show(message: Warning | str, *_: object) -> None:
        os.write(2, f"{message}\n".encode())  # reaches the test from any process

    split = open_split(_damaged_set(tmp_path, 8, 2), skip_bad=True)
    sets = [DetectionDataset(split, 64, augment=augment) for augment in (True, False)]
    sets[1].warn_with(sets[0])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        for dataset in sets:
            loader = make_loader(dataset, batch_size=2, shuffle=False, workers=workers)
            for _ in range(2):
                assert len(list(loader)) == 4
    told = capfd.readouterr().err
    assert [told.count(f"{name}.png: ") for name in ("000", "001", "002")] == [1, 1, 0]
    assert all(len(dataset.damaged) == 2 for dataset in sets), "each data set counts both"
