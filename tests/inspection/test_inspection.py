"""What an inspection finds: positives, levels, doubtful labels, advice, examples."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scalewise import by_class, by_level, by_size, detectors
from scalewise.data import DetectionDataset, ImageRecord, Split, make_loader, open_split
from scalewise.lab.data.image_record import Objects
from scalewise.lab.inspection.advice import Advice, Group, advise, unevenness
from scalewise.lab.inspection.crops import EXAMPLES, SIDE, strips
from scalewise.lab.inspection.found_tables import histogram
from scalewise.lab.inspection.labels import doubtful
from scalewise.lab.inspection.levels import assign_objects, level_ranges
from scalewise.lab.inspection.look import look_at
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.grouping import count_objects, size_edges
from scalewise.lab.training.reach import reach
from scalewise.weighting import Grouping

KINDS = ("atss", "fcos", "retinanet")
Boxes = list[tuple[float, float, float, float]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "demo"
    open_split(spec := f"demo:images=24,size=96,folder={folder}")
    return spec


def record(
    boxes: Boxes, labels: list[int], size: tuple[int, int] = (100, 80), number: int = 1
) -> ImageRecord:
    objects = Objects()
    for box, label in zip(boxes, labels, strict=True):
        assert objects.add(box, label)
    return objects.record(number, Path(f"{number}.png"), *size)


def split_of(*records: ImageRecord, classes: tuple[str, ...] = ("cat", "dog")) -> Split:
    ids = tuple(range(len(classes)))
    return Split("coco", "train", "planted", classes, ids, list(records))


def trained_positives(
    split: Split, size: int, detector: str, scale: float, grouping: Grouping | None
) -> np.ndarray:
    """Positives of each group, as a detector counts them in one pass over the split."""
    model = getattr(detectors, detector)(
        "mobilenet_v3_small",
        len(split.classes),
        width=8,
        depth=0,
        anchor_scale=scale,
        grouping=grouping,
    )
    total = np.zeros(len(model.group_names))
    loader = make_loader(DetectionDataset(split, size, augment=False), 6, shuffle=False)
    with torch.no_grad():
        for batch in loader:
            model.losses(batch)
            total += model.positives.numpy()
    return total


@pytest.mark.parametrize("detector", KINDS)
@pytest.mark.parametrize(("size", "scale"), [(72, 1.0), (128, 0.4)])
def test_positives_are_those_of_training(data: str, detector: str, size: int, scale: float) -> None:
    config = TrainConfig(data=data, detector=detector, size=size, anchor_scale=scale)  # type: ignore[arg-type]
    found = look_at(config)
    split = open_split(data)
    groupings = {
        "class": by_class(split.classes),
        "size": by_size(),
        "level": by_level([group.name for group in found.groups["level"]]),
    }
    for by, grouping in groupings.items():
        counted = [group.positives for group in found.groups[by]]
        expected = trained_positives(split, size, detector, scale, grouping)
        assert counted == expected.tolist(), by
        assert sum(counted) > 0


def test_objects_are_those_of_the_file(data: str) -> None:
    found = look_at(TrainConfig(data=data, size=96))
    table = json.loads(Path(found.split.source).read_text())
    names = {one["id"]: one["name"] for one in table["categories"]}
    expected = Counter(names[one["category_id"]] for one in table["annotations"])
    assert {g.name: g.objects for g in found.groups["class"] if g.objects} == dict(expected)
    sides = sorted(np.sqrt(one["bbox"][2] * one["bbox"][3]) for one in table["annotations"])
    np.testing.assert_allclose(sorted(found.sides), sides, rtol=1e-4)
    by_size_expected = np.histogram(sides, [0, 32, 96, np.inf])[0].tolist()
    assert [g.objects for g in found.groups["size"]] == by_size_expected
    bins = histogram(found)
    assert sum(count for *_, count, _ in bins) == len(sides)
    for low, high, count, _ in bins:
        assert count == sum(low <= side < high for side in found.sides)


def test_every_object_is_counted_where_the_split_is_sampled(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = look_at(TrainConfig(data=data, size=96))
    monkeypatch.setattr("scalewise.lab.inspection.look.MOST_IMAGES", 6)
    part = look_at(TrainConfig(data=data, size=96))
    assert part.metrics["images_sampled"] == 6
    assert [g.objects for g in part.groups["class"]] == [g.objects for g in whole.groups["class"]]
    for group in part.groups["class"]:
        if group.sampled:
            assert group.expected == pytest.approx(group.positives * group.objects / group.sampled)
    assert look_at(TrainConfig(data=data, size=96)).metrics == part.metrics


@pytest.mark.parametrize("detector", KINDS)
def test_ranges_of_levels_join_and_grow_with_the_anchors(detector: str) -> None:
    ranges = level_ranges(512, detector, 1.0)
    assert [one.name for one in ranges] == ["P3", "P4", "P5", "P6", "P7"][: len(ranges)]
    assert len(ranges) >= 3
    for one, following in pairwise(ranges):
        assert one.high == pytest.approx(following.low, rel=0.1)
        # each level has twice the stride of the one below, and so objects twice as large
        if following.high < 400:
            assert following.high / one.high == pytest.approx(2, rel=0.25)
    half = level_ranges(512, detector, 0.5)
    assert half[0].high == pytest.approx(ranges[0].high / 2, rel=0.25)


def test_the_end_of_the_finest_level_is_where_its_anchors_end() -> None:
    # ATSS has squares of 64 pixels on P3 and 128 on P4; the limit is their geometric mean
    assert level_ranges(512, "atss", 1.0)[0].high == pytest.approx((64 * 128) ** 0.5, rel=0.12)
    # P3 of FCOS takes distances to the farthest edge below 64, so sides below about 128
    assert level_ranges(512, "fcos", 1.0)[0].high == pytest.approx(2 * 64, rel=0.15)


def test_at_192_pixels_cells_of_a_hundred_lie_on_the_finest_level() -> None:
    cells = [record([(10.0, 10.0, 110.0, 110.0)], [0], (640, 480), n) for n in range(1, 4)]
    assert assign_objects(cells, 192, "atss", 1.0).level.tolist() == [0, 0, 0]
    assert assign_objects(cells, 192, "atss", 0.25).level.tolist() == [1, 1, 1]


def test_doubtful_labels_are_found_where_they_were_planted() -> None:
    sound = (20.0, 20.0, 60.0, 60.0)
    shifted = (20.0, 20.0, 60.0, 61.0)  # IoU 40 / 41
    split = split_of(
        record([sound, shifted, (0.0, 0.0, 5.0, 5.0)], [0, 0, 0], number=1),
        record([sound, shifted], [0, 1], number=2),
        record([(3.0, 3.0, 4.0, 30.0), (1.0, 1.0, 99.0, 79.0)], [1, 1], number=3),
        record([], [], number=4),
        record([sound, (20.0, 20.0, 60.0, 50.0)], [0, 1], number=5),  # IoU 0.75: no doubt
    )
    crowd = record([sound, shifted], [0, 0], number=6)
    crowd.crowd[1] = True
    split.records.append(crowd)
    twice, mixed, thin, whole, empty = doubtful(split)
    assert (twice.count, twice.places) == (1, ("1.png: cat (20 20 60 60)",))
    assert (mixed.count, mixed.places) == (1, ("2.png: cat (20 20 60 60) and dog",))
    assert (thin.count, thin.places) == (1, ("3.png: dog (3 3 4 30)",))
    assert (whole.count, whole.places) == (1, ("3.png: dog (1 1 99 79)",))
    assert (empty.count, empty.places) == (1, ("4.png",))


def test_crowd_regions_are_no_objects_of_a_group() -> None:
    boxes = [(0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 20.0, 20.0), (5.0, 5.0, 90.0, 70.0)]
    split = split_of(record(boxes, [0, 1, 1]), record(boxes[:2], [0, 0], number=2))
    split.records[0].crowd[2] = True
    assert count_objects(by_class(split.classes), split) == [3, 1]
    assert size_edges("thirds", split) == pytest.approx((10, 20))
    assert assign_objects(split.records, 100, "atss", 1.0).labels.tolist() == [0, 1, 0, 0]


@given(shift=st.integers(0, 39), same=st.booleans(), many=st.integers(1, 5))
@settings(max_examples=40)
def test_two_boxes_are_alike_from_the_stated_overlap_on(shift: int, same: bool, many: int) -> None:
    overlap = (40 - shift) / (40 + shift)  # IoU of a square and its copy, moved sideways
    boxes = [(10.0, 10.0, 50.0, 50.0), (10.0 + shift, 10.0, 50.0 + shift, 50.0)]
    if same and not shift:
        return  # the readers drop an exact copy of an object
    split = split_of(*(record(boxes, [0, 1 - same], number=n) for n in range(1, many + 1)))
    twice, mixed, *_ = doubtful(split)
    assert twice.count == (many if same and overlap >= 0.9 else 0)
    assert mixed.count == (many if not same and overlap >= 0.8 else 0)
    assert len(twice.places) + len(mixed.places) == min(3, twice.count + mixed.count)


def advised(split: Split, size: int, groups: dict[str, list[Group]] | None = None) -> Advice:
    even = [Group("one", 50, 50, 100), Group("other", 50, 50, 100)]
    small = reach(split, size, "atss")
    return advise(small, split.records, "atss", 1.0, groups or {"class": even, "size": even})


def test_the_recommended_size_is_the_least_that_does() -> None:
    boxes = [(10.0, 10.0, 30.0, 30.0)]  # 20 of 640 pixels are 8 of 256
    split = split_of(*(record(boxes, [0], (640, 480), n) for n in range(1, 5)))
    assert advised(split, 128).size == 256
    assert advised(split, 320).size == 320
    few = split_of(*(record([(1.0, 1.0, 3.0, 3.0)], [0], (200, 100), n) for n in range(1, 5)))
    assert advised(few, 96).size == 224  # the 200 pixels of the images limit it, not 800
    assert advised(few, 256).size == 256


def test_the_recommended_anchors_spread_the_objects() -> None:
    sides = np.geomspace(12, 80, 24)
    split = split_of(
        *(record([(5.0, 5.0, 5 + s, 5 + s)], [0], (192, 192), n) for n, s in enumerate(sides, 1))
    )

    def fullest(scale: float) -> float:
        level = assign_objects(split.records, 192, "atss", scale).level
        return float(np.bincount(level[level >= 0]).max() / (level >= 0).sum())

    scale = advised(split, 192).anchor_scale
    assert fullest(1.0) > 0.8
    assert scale < 1
    assert fullest(scale) <= fullest(1.0) - 0.2
    one_size = split_of(record([(5.0, 5.0, 25.0, 25.0)], [0], (192, 192)))
    assert advised(one_size, 192).anchor_scale == 1


def test_what_is_weighed_is_what_differs_most() -> None:
    even = [Group("a", 100, 100, 900), Group("b", 100, 100, 800)]
    uneven = [Group("c", 900, 900, 9000), Group("d", 100, 50, 500), Group("e", 19, 19, 1)]
    split = split_of(record([(10.0, 10.0, 60.0, 60.0)], [0]))
    assert unevenness(uneven) == (9.0, "c", "d")  # half of d was sampled: 2 * 500 positives
    for groups, by in (
        ({"class": uneven, "size": even}, "class"),
        ({"class": even, "size": uneven}, "size"),
        ({"class": even, "size": even}, "class"),
        ({"class": even, "size": [Group("few", 40, 40, 1), Group("rest", 9960, 1, 20)]}, "class"),
    ):
        assert advised(split, 320, groups).by == by
    assert "--scheme equal" in advised(split, 320, {"class": even, "size": even}).reasons[2]


def test_examples_are_cut_from_where_the_boxes_are(tmp_path: Path) -> None:
    pixels = np.full((60, 90, 3), 255, np.uint8)
    pixels[20:40, 30:50] = (200, 0, 0)  # all red where the object is
    Image.fromarray(pixels).save(tmp_path / "red.png")
    split = split_of(record([(30.0, 20.0, 50.0, 40.0)], [0], (90, 60)), classes=("cat",))
    split.records[0].path = tmp_path / "red.png"
    broken = record([(30.0, 20.0, 50.0, 40.0)], [0], (90, 60), 2)
    broken.path = tmp_path / "gone.png"
    split.records.append(broken)
    found = replace(
        look_at(TrainConfig(data="demo:images=10,size=64,folder=" + str(tmp_path / "demo"))),
        split=split,
        groups={"class": (Group("cat", 2, 2, 4),), "size": (Group("small", 2, 2, 4),)},
    )
    shown, unreadable = strips(found)
    assert [strip.name for strip in shown] == ["cat", "small"]
    assert len(unreadable) == 1
    assert "gone.png" in unreadable[0]
    crop = np.asarray(shown[0].image)[:, :SIDE]
    assert shown[0].image.width == EXAMPLES * (SIDE + 4) - 4
    assert (np.abs(crop[40:56, 40:56].astype(int) - (200, 0, 0)) < 20).all()
    assert (crop[3:6, 3:6] > 240).all()
