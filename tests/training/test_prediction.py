"""Prediction on all kinds of files in a folder, and names in any script on the pictures."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFont

from scalewise.cli import main
from scalewise.data import open_split
from scalewise.detectors import atss, fcos, retinanet
from scalewise.lab import letters
from scalewise.lab.data.image_record import ImageRecord, Objects
from scalewise.lab.data.split import Split
from scalewise.lab.inference.formats import ResultNames
from scalewise.lab.inference.prediction import predict
from scalewise.lab.inference.trained import TrainedRun, load_run
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
from scalewise.lab.training.reach import reach

Tiny = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return load_run(train(replace(tiny(tmp_path_factory.mktemp("runs")), epochs=1)), device="cpu")


def _photo(run: TrainedRun) -> Image.Image:
    """The upper left part of a test image, 64 x 40 pixels."""
    return Image.open(open_split(run.config.data, "test").records[0].path).crop((0, 0, 64, 40))


def _written(folder: Path) -> dict[str, Any]:
    entries = json.loads((folder / "predictions.json").read_text())
    return {Path(entry["image"]).name: entry for entry in entries}


def test_every_image_in_and_below_a_folder_is_taken_or_named(
    run: TrainedRun, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    (images / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    photo = _photo(run)
    names = ["a.jpg", "b.jfif", "sub/c.PNG", "sub/deep/d.gif", "no-suffix", "e.webp", "-f.jpg"]
    for name in names:
        photo.save(images / name, None if "." in name and "jfif" not in name else "JPEG")
    photo.save(tmp_path / "other" / "g.bmp")
    photo.save(images / ("x" * 250 + ".png"))
    photo.save(images / "line\nbreak.png")
    (images / "link").symlink_to(tmp_path / "other")
    (images / "loop").symlink_to(images)
    photo.save(images / "damaged.png")
    data = bytearray((images / "damaged.png").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (images / "damaged.png").write_bytes(data)
    (images / "h.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (images / "notes.txt").write_text("no image")
    (images / "._a.jpg").write_bytes(b"\0\5\26\7")
    os.mkfifo(images / "pipe.jpg")
    (images / "self.jpg").symlink_to("self.jpg")
    folder, unreadable = predict(run, [images, tmp_path / "none.jpg"], tmp_path / "out", 0.0)
    known = {Path(name).name for name in names} | {"g.bmp", "x" * 250 + ".png", "line\nbreak.png"}
    assert set(_written(folder)) == known
    assert len(list(folder.glob("*.png"))) == len(known)
    assert all(line.isprintable() for line in unreadable)
    told = "\n".join(unreadable)
    for name in ("damaged.png", "h.heic", "pipe.jpg", "none.jpg", "self.jpg"):
        assert name in told
    assert len(unreadable) == 5


def test_labels_of_images_of_one_stem_do_not_overwrite_each_other(tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a.png.jpg", "a.jpg", "a.png", "a.bmp")]
    for order in itertools.permutations(images):
        names = ResultNames(tmp_path / "labels", [tmp_path])
        assert len({names.of(image) for image in order}) == 4


def test_a_folder_without_images_is_named(run: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    image = tmp_path / "a.png"
    _photo(run).save(image)
    unreadable = predict(run, [tmp_path / "empty", image], tmp_path / "out", 0.5)[1]
    assert unreadable == [f"{tmp_path}/empty: no image or video among its 1 files"]


def test_photos_are_drawn_upright_with_boxes_in_that_frame(run: TrainedRun, tmp_path: Path) -> None:
    upright = _photo(run)
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    out = predict(run, [tmp_path / "upright.png", tmp_path / "turned.png"], tmp_path / "out", 0.0)[
        0
    ]
    written = _written(out)
    assert written["turned.png"]["detections"]
    assert written["turned.png"]["detections"] == written["upright.png"]["detections"]
    one, other = (np.asarray(Image.open(out / f"{name}.png")) for name in ("upright", "turned"))
    np.testing.assert_array_equal(one, other)


def test_16_bits_give_what_8_give(run: TrainedRun, tmp_path: Path) -> None:
    grey = np.asarray(_photo(run).convert("L"))
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "32.tif")
    out, unreadable = predict(run, [tmp_path], tmp_path / "out", 0.0)
    written = _written(out)
    assert written["16.png"]["detections"] == written["8.png"]["detections"]
    assert len(unreadable) == 1
    assert "32.tif: its pixels" in unreadable[0]


def test_the_command_tells_what_was_not_read(
    run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _photo(run).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    words = [str(run.folder), str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["predict", *words]) == 1
    out = capsys.readouterr().out
    assert f"not read: {tmp_path}/b.png: cannot be read as an image" in out
    assert "1 files could not be read" in out


def _tofu(font: ImageFont.FreeTypeFont) -> bytes:
    return bytes(font.getmask("\U0010fffd"))


@pytest.mark.parametrize(
    "name",
    ["\u00e9crou", "\u0433\u0430\u0439\u043a\u0430", "\u03b2\u03cc\u03bb\u03c4", "\U0001f600"],
)
def test_names_are_drawn_in_their_script(name: str) -> None:
    text, font = letters.lettering(name)
    assert text == name
    assert all(bytes(font.getmask(letter)) != _tofu(font) for letter in name)


@pytest.mark.parametrize("name", ["\u87ba\u6813", "\u306d\u3058", "\ub108\ud2b8"])
def test_names_of_east_asia_are_drawn_where_a_font_is_there(name: str) -> None:
    pytest.importorskip("mplfonts", reason="needs mplfonts")
    text, font = letters.lettering(f"{name} 0.50 P3")
    assert text == f"{name} 0.50 P3"
    assert all(bytes(font.getmask(letter)) != _tofu(font) for letter in name)
    assert len(letters.families([name])) == 2


def test_letters_that_no_font_has_become_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = letters._fonts()[:1]
    monkeypatch.setattr(letters, "_fonts", lambda: first)
    letters._warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"pip install 'scalewise\[cjk\]'"):
        text = letters.lettering("\u87ba bolt")[0]
    assert text == r"\u87ba bolt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough
        assert letters.known_letters("\u87ba") == r"\u87ba"
    assert letters.families(["\u87ba bolt"]) == ["DejaVu Sans"]
    assert letters.lettering("a\nb")[0] == r"a\nb"


def _split(sides: list[float], image: int) -> Split:
    """One object per picture: a square of each side, 3 px right of and below the middle."""
    records: list[ImageRecord] = []
    for number, side in enumerate(sides, start=1):
        objects = Objects()
        first = image / 2 + 3 - side / 2
        objects.add((first, first, first + side, first + side), 0)
        records.append(objects.record(number, Path(f"{number}.jpg"), image, image))
    return Split("coco", "train", "x.json", ("thing",), (1,), records)


def test_objects_that_vanish_are_counted_and_told() -> None:
    split = _split([9.0] * 80, 4000)
    found = reach(split, 320, "atss")
    assert (found.objects, found.under_one, found.under_four) == (80, 80, 80)
    assert found.unreached == 0  # of those that are left
    said = found.warning(split.name)
    assert "at --size 320, of 80 objects 80 are under 1 pixel" in said
    assert found.enough == 3584  # the least multiple of 32 at which 9 of 4000 pixels are 8
    assert not reach(split, found.enough, "atss").warning("train")
    assert not reach(_split([], 100), 320, "atss").warning("train")


@pytest.mark.parametrize("detector", ["atss", "fcos", "retinanet"])
def test_reached_objects_are_those_with_anchors(detector: str) -> None:
    """Compared with the assignment of the detectors, one object per picture."""
    split = _split([2.0, 4.0, 5.9, 6.1, 7.0, 9.0, 20.0, 63.0, 64.0, 65.0, 200.0, 310.0], 320)
    made = {"atss": atss, "fcos": fcos, "retinanet": retinanet}[detector](
        backbone="mobilenet_v3_small", width=16, depth=1, num_classes=1
    )
    from scalewise.lab.detectors.batch import Batch

    boxes = torch.from_numpy(np.stack([r.boxes for r in split.records]))
    count = len(boxes)
    batch = Batch(
        images=torch.zeros(count, 3, 320, 320, dtype=torch.uint8),
        boxes=boxes,
        labels=torch.zeros(count, 1, dtype=torch.int64),
        valid=torch.ones(count, 1, dtype=torch.bool),
        sizes=torch.full((count, 2), 320),
        scales=torch.ones(count, 2),
        image_ids=torch.arange(count),
    )
    with torch.no_grad():
        predictions, grid = made.predict(batch.images, batch.sizes)
        positive = made.method.losses(predictions, grid, batch).positive
    assert reach(split, 320, detector).unreached == int((~positive.any(1)).sum())
