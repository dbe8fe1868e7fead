"""The demo data set: its pictures, boxes, files and options."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scalewise.data import BadData, open_split
from scalewise.files import WriteError
from scalewise.lab.data import demo_cells, demo_draw
from scalewise.lab.data.demo_cells import CELLS, draw_cells
from scalewise.lab.data.demo_draw import SHAPES, draw_image, draw_size, overlap
from scalewise.lab.data.demo_set import make_demo


def _content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_same_options_same_bytes_other_seed_other_folder(tmp_path: Path) -> None:
    one = make_demo(f"images=10,size=64,seed=3,folder={tmp_path}/one")
    two = make_demo(f"images=10,size=64,seed=3,folder={tmp_path}/two")
    other = make_demo(f"images=10,size=64,seed=4,folder={tmp_path}/one")
    assert _content(one) == _content(two)
    assert one.name.removeprefix("one") == two.name.removeprefix("two")
    assert other != one
    assert _content(other)["train/000000.jpg"] != _content(one)["train/000000.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [one.name, two.name, other.name]
    )  # no temporary folder is left


def test_an_equal_folder_is_used_again_and_a_strange_one_refused(tmp_path: Path) -> None:
    options = f"images=5,size=64,folder={tmp_path}/demo"
    folder = make_demo(options)
    before = (folder / "train" / "000000.jpg").stat().st_mtime_ns
    assert make_demo(options) == folder
    assert (folder / "train" / "000000.jpg").stat().st_mtime_ns == before
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(BadData, match="is not this demo data set; move it away"):
        make_demo(options)


def test_processes_that_race_for_a_folder_agree(tmp_path: Path) -> None:
    options = f"images=10,size=64,folder={tmp_path}/demo"
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(make_demo, [options] * 3))
    assert list(tmp_path.iterdir()) == list(folders)
    alone = make_demo(f"images=10,size=64,folder={tmp_path}/alone")
    assert _content(folders.pop()) == _content(alone)


def test_splits_are_sound_and_differ(tmp_path: Path) -> None:
    spec = f"demo:images=20,size=96,folder={tmp_path}/demo"
    splits = {name: open_split(spec, name) for name in ("train", "val", "test")}
    assert [len(split.records) for split in splits.values()] == [20, 4, 4]
    assert splits["train"].classes == SHAPES
    assert not any(split.clipped for split in splits.values())
    first = {split.records[0].path.read_bytes() for split in splits.values()}
    assert len(first) == 3


@pytest.mark.parametrize("skew", [-1.0, 0.0, 0.5, 2.0])
def test_each_octave_holds_its_share(skew: float) -> None:
    """Sizes follow the frequencies that `skew` promises."""
    rng = np.random.default_rng(0)
    sizes = np.array([draw_size(rng, 8, 64, skew) for _ in range(20000)])
    assert sizes.min() >= 8
    assert sizes.max() <= 64
    counts = np.histogram(sizes, bins=[8, 16, 32, 64])[0]
    np.testing.assert_allclose(counts[:-1] / counts[1:], 2**skew, rtol=0.1)


def test_skew_reaches_the_pictures() -> None:
    """A larger skew makes the objects in the pictures smaller."""

    def median(skew: float) -> float:
        rng = np.random.default_rng(1)
        boxes = [box for _ in range(60) for _, box in draw_image(rng, 128, skew)[1]]
        return float(np.median([np.sqrt((b[2] - b[0]) * (b[3] - b[1])) for b in boxes]))

    assert median(2.0) < median(0.0) < median(-2.0)


def test_a_shape_larger_than_the_picture_is_left_out() -> None:
    """A turned, stretched square can be 1.05 pictures wide; this seed draws one."""
    rng = np.random.default_rng(1026)
    pixels, objects = draw_image(rng, 64, -8.0)
    assert pixels.shape == (64, 64, 3)
    assert all(max(box) <= 64 for _, box in objects)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file could not be made: there is a file of that name"):
        make_demo(f"images=5,size=64,folder={tmp_path}/file/demo")


def test_boxes_hug_what_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are tight around the pixels that differ from the same picture without objects."""
    paint = demo_draw._paint
    drawn = [draw_image(np.random.default_rng(seed), 96, 0.5) for seed in range(20)]
    monkeypatch.setattr(
        demo_draw, "_paint", lambda patch, *rest: paint(patch.copy(), *rest)
    )  # draws the same random numbers, but does not paint
    for seed, (pixels, objects) in enumerate(drawn):
        empty, again = draw_image(np.random.default_rng(seed), 96, 0.5)
        assert again == objects
        changed = np.abs(pixels.astype(int) - empty).max(-1) > 3  # [96, 96]
        inside = np.zeros_like(changed)
        for _, (x1, y1, x2, y2) in objects:
            assert 0 <= x1 < x2 <= 96
            assert 0 <= y1 < y2 <= 96
            inside[y1:y2, x1:x2] = True
            for edge in (
                changed[y1, x1:x2],
                changed[y2 - 1, x1:x2],
                changed[y1:y2, x1],
                changed[y1:y2, x2 - 1],
            ):
                assert edge.any()
        assert not (changed & ~inside).any()


def test_cells_are_as_unlike_as_the_docs_say(tmp_path: Path) -> None:
    """Classes have the frequencies and sizes that the docs state."""
    split = open_split(f"demo:kind=cells,images=300,size=64,folder={tmp_path}/demo", "train")
    assert split.classes == CELLS
    labels = np.concatenate([record.labels for record in split.records])
    boxes = np.concatenate([record.boxes for record in split.records])
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(shares, [0.88, 0.08, 0.04], atol=0.015)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    red, white, platelet = (np.median(sides[labels == label]) for label in range(3))
    assert 1.7 * platelet < red < white / 1.7
    batches = np.array([(record.labels == 2).sum() for record in split.records])[:288]
    assert (batches.reshape(-1, 16).sum(1) > 0).all()  # every batch of 16 has a platelet


def test_boxes_of_cells_lie_on_what_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact boxes are tight around the cells, and those as drawn by hand are a little off."""
    by_hand = [draw_cells(np.random.default_rng(seed), 128)[1] for seed in range(20)]
    paint = demo_cells._paint
    monkeypatch.setattr(demo_cells, "_HAND", 0.0)
    drawn = [draw_cells(np.random.default_rng(seed), 128) for seed in range(20)]
    monkeypatch.setattr(demo_cells, "_paint", lambda patch, *rest: paint(patch.copy(), *rest))
    overlaps = []
    for seed, (pixels, cells) in enumerate(drawn):
        empty, again = draw_cells(np.random.default_rng(seed), 128)
        assert again == cells
        changed = np.abs(pixels.astype(int) - empty).max(-1) > 3  # [128, 128]
        for (label, box), (same, moved) in zip(cells, by_hand[seed], strict=True):
            x1, y1, x2, y2 = box
            for edge in (
                changed[y1, x1:x2],
                changed[y2 - 1, x1:x2],
                changed[y1:y2, x1],
                changed[y1:y2, x2 - 1],
            ):
                assert edge.any()
            assert label == same
            assert min(moved[:2]) >= 0
            assert max(moved[2:]) <= 128
            overlaps.append(overlap(box, moved))
    assert min(overlaps) > 0.5
    assert 0.75 < np.mean(overlaps) < 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("colour=3", "unknown option 'colour'; there are kind, seed, skew, images, size, folder"),
        ("images=many", "option images=many is not of type int"),
        ("images=4", "images >= 5"),
        ("size=10", "size >= 64"),
        ("skew=nan", "-8 <= skew <= 8"),
        ("seed=-1", "seed >= 0"),
        ("kind=cats", "no kind 'cats'; there are shapes, cells"),
        ("kind=cells,skew=2", "skew is for shapes"),
        ("images=10,size=64,images=12", "option images is given twice"),
        ("folder=.", "folder=. has no name"),
        ("folder=/", "folder=/ has no name"),
    ],
)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(BadData, match=re.escape(message)):
        make_demo(options)
