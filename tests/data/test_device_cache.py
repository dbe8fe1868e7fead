"""Batches augmented as a whole, compared with torchvision's transforms of single images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from scalewise.data import (
    BadData,
    Collate,
    DetectionDataset,
    DeviceCache,
    EpochSampler,
    Split,
    make_loader,
    open_split,
    train_transforms,
)
from scalewise.detectors import Batch
from scalewise.errors import UserError
from scalewise.lab.data.batch_draws import Draw, draw_augmentation
from scalewise.lab.data.batch_mosaic import FlatObjects, put_together
from scalewise.lab.data.batch_transforms import fit_boxes, fit_images, fitting_size
from scalewise.lab.data.mosaic import draw_collage
from scalewise.lab.data.transforms import Augmentation, as_boxes
from scalewise.lab.data.window import Window

CPU = torch.device("cpu")
GREY = torch.tensor([124, 116, 104])


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("demo")
    return open_split(f"demo:images=22,size=96,folder={folder}/demo")


def _smooth(height: int, width: int, seed: int) -> Tensor:
    """Return a picture without sharp edges, uint8 [3, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.rand(1, 3, 4, 4, generator=generator) * 255
    size = (height, width)
    many = torch.nn.functional.interpolate(few, size, mode="bicubic", align_corners=True)
    return many[0].clamp(0, 255).to(torch.uint8)


def _one(image: Tensor, draw: Draw, side: int) -> Tensor:
    return fit_images(image[None], torch.tensor([image.shape[1:]]), [draw], side)[0]


def _uncoloured(window: Window, flipped: bool = False) -> Draw:
    return Draw(window, flipped, (), ())


@st.composite
def _images(draw: st.DrawFn) -> tuple[int, int, list[list[float]]]:
    """Draw the sides of an image and boxes inside it, some less than a pixel wide."""
    height, width = draw(st.integers(8, 150)), draw(st.integers(8, 150))
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        x1, y1 = draw(st.floats(0, width - 2, width=32)), draw(st.floats(0, height - 2, width=32))
        x2, y2 = draw(st.floats(0.5, width, width=32)), draw(st.floats(0.5, height, width=32))
        boxes.append([x1, y1, min(x1 + x2, width), min(y1 + y2, height)])
    return height, width, boxes


@settings(max_examples=60)
@given(st.lists(_images(), min_size=1, max_size=4), st.integers(0, 2**40), st.booleans())
def test_boxes_are_those_of_the_transforms_for_one_image(
    images: list[tuple[int, int, list[list[float]]]], seed: int, jitter: bool
) -> None:
    augmentation = Augmentation(0.5, 0.2 * jitter, (0.5, 1.5))
    transforms = train_transforms(64, *augmentation)
    draws, expected = [], []
    for row, (height, width, boxes) in enumerate(images):
        target = {
            "boxes": as_boxes(torch.tensor(boxes), height, width),
            "labels": torch.arange(len(boxes)),
        }
        torch.manual_seed(seed + row)
        image, target = transforms(torch.zeros(3, height, width, dtype=torch.uint8), target)
        draws.append(draw_augmentation(augmentation, 64, height, width, seed + row))
        assert draws[-1].window[3:] == tuple(image.shape[1:])
        expected.append((target["boxes"].as_subclass(Tensor), target["labels"]))
    sizes = torch.tensor([(height, width) for height, width, _ in images])
    counts = torch.tensor([len(boxes) for _, _, boxes in images])
    owners = torch.arange(len(images)).repeat_interleave(counts)
    flat = torch.tensor([box for *_, boxes in images for box in boxes]).reshape(-1, 4)
    labels = torch.cat([torch.arange(count) for count in counts.tolist()])
    found, kept = fit_boxes(flat, owners, sizes, draws)
    for row, (boxes_of, labels_of) in enumerate(expected):
        own = kept & (owners == row)
        assert labels[own].tolist() == labels_of.tolist()
        torch.testing.assert_close(found[own], boxes_of, rtol=0, atol=1e-3)


@settings(max_examples=40)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 2**40))
def test_pixels_are_those_of_the_transforms_for_one_image(
    height: int, width: int, seed: int
) -> None:
    """Pixels differ by one grey value at most, without colour changes."""
    original = _smooth(height, width, seed % 1000)
    target = {"boxes": as_boxes(torch.zeros(0, 4), height, width), "labels": torch.zeros(0)}
    augmentation = Augmentation(0.5, 0.0, (0.6, 1.5))
    torch.manual_seed(seed)
    expected, _ = train_transforms(64, *augmentation)(original, target)
    found = _one(original, draw_augmentation(augmentation, 64, height, width, seed), 64)
    own = found[:, : expected.shape[1], : expected.shape[2]]
    assert (own.int() - expected.int()).abs().max() <= 1
    for beyond in (found[:, expected.shape[1] :], found[:, :, expected.shape[2] :]):
        assert (beyond == GREY[:, None, None]).all()


def test_colours_are_those_of_torchvision() -> None:
    """Each image of a batch gets its own colour changes, in its own order."""
    images = torch.stack([_smooth(48, 64, seed) for seed in range(24)])
    augmentation = Augmentation(0.0, 0.5, (1.0, 1.0))
    draws = [draw_augmentation(augmentation, 64, 48, 64, seed) for seed in range(24)]
    assert len({draw.order for draw in draws}) == 6
    found = fit_images(images, torch.tensor([[48, 64]] * 24), draws, 64)[:, :, :48]
    target = {"boxes": as_boxes(torch.zeros(0, 4), 48, 64), "labels": torch.zeros(0)}
    for seed in range(24):
        torch.manual_seed(seed)
        expected, _ = train_transforms(64, *augmentation)(images[seed], target)
        away = (found[seed].int() - expected.int()).abs()
        assert away.max() <= 2, "rounding may go the other way"
        assert (away == 0).float().mean() > 0.98


def test_pixels_of_an_image_that_is_kept_smaller() -> None:
    """Resizing twice differs from resizing once by a few grey values."""
    original = _smooth(480, 640, 0)
    height, width = fitting_size(192, 1.25, 480, 640)
    assert (height, width) == (180, 240)
    kept = v2.functional.resize(original, [height, width], antialias=True)
    for resized in ((144, 192), (108, 144), (180, 240)):
        expected = v2.functional.resize(original, list(resized), antialias=True)
        found = _one(kept, _uncoloured(Window(resized, 0, 0, *resized)), 256)
        away = (found[:, : resized[0], : resized[1]].int() - expected.int()).abs()
        assert away.max() <= 3
        assert away.float().mean() < 0.5
    assert fitting_size(192, 1.25, 240, 100) == (240, 100), "an image is never enlarged"


def test_an_identity_leaves_the_image_and_a_flip_mirrors_it() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 40, 64), generator=generator, dtype=torch.uint8)
    window = Window((40, 64), 0, 0, 40, 64)
    assert torch.equal(_one(image, _uncoloured(window), 64)[:, :40], image)
    flipped = _one(image, _uncoloured(window, flipped=True), 64)
    assert torch.equal(flipped[:, :40], image.flip(2))
    assert (flipped[:, 40:] == GREY[:, None, None]).all()
    part = Window((40, 64), 5, 7, 20, 30)
    assert torch.equal(_one(image, _uncoloured(part), 32)[:, :20, :30], image[:, 5:25, 7:37])
    mirrored = _one(image, _uncoloured(part, flipped=True), 32)
    assert torch.equal(mirrored[:, :20, :30], image[:, 5:25, 7:37].flip(2))


def test_without_augmentation_batches_are_those_of_evaluation(split: Split) -> None:
    plain = DetectionDataset(split, 64, augment=False)
    batch = DeviceCache(plain, CPU).__getitems__(range(6))
    _same(batch, Collate(64)([plain[i] for i in range(6)]), grey_values=0)


def _same(found: Batch, expected: Batch, grey_values: int) -> None:
    for name, one, other in zip(Batch._fields, found, expected, strict=True):
        if name == "images":
            assert one.shape == other.shape
            assert (one.int() - other.int()).abs().max() <= grey_values
        else:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-3, msg=name)


@pytest.mark.parametrize("mosaic_epochs", [0, 2])
def test_batches_are_those_of_the_plain_loader(split: Split, mosaic_epochs: int) -> None:
    """Batches equal those of the plain loader, with and without collages."""
    dataset = DetectionDataset(split, 90, augment=True, color_jitter=0)
    loaders = [
        make_loader(data, 4, shuffle=True, seed=3, mosaic_epochs=mosaic_epochs)
        for data in (DeviceCache(dataset, CPU), dataset)
    ]
    assert DeviceCache(dataset, CPU).shape == (22, 3, 96, 96)
    for epoch in range(3):
        for loader in loaders:
            sampler = loader.batch_sampler
            assert isinstance(sampler, EpochSampler)
            sampler.set_epoch(epoch)
        for found, expected in zip(*loaders, strict=True):
            _same(found, expected, grey_values=1)


def test_four_quarters_of_a_collage() -> None:
    """A collage of plain grey images is four rectangles, with boxes that fit them."""
    images = torch.arange(1, 7, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 40, 60)
    whole = torch.tensor([[0.0, 0, 60, 40]]).repeat(6, 1)
    objects = FlatObjects(whole, torch.arange(6), torch.arange(6))
    sizes, scales = torch.tensor([[40, 60]] * 6), torch.ones(6, 2, dtype=torch.float64)
    seeds = range(100, 106)
    found, flat, new_sizes, _ = put_together(images, objects, sizes, scales, seeds)
    boxes, labels, valid = flat.padded(6)
    assert torch.equal(new_sizes, sizes)
    collages = 0
    for row, seed in enumerate(seeds):
        drawn = draw_collage(row, 6, seed)
        if drawn is None:
            assert torch.equal(found[row], images[row])
            assert boxes[row][valid[row]].tolist() == whole[:1].tolist()
            continue
        collages += 1
        y, x = round(drawn.y * 40), round(drawn.x * 60)
        values = torch.tensor(drawn.rows).view(2, 2) + 1
        high, wide = torch.tensor([y, 40 - y]), torch.tensor([x, 60 - x])
        expected = values.repeat_interleave(high, 0).repeat_interleave(wide, 1)
        assert (found[row] == expected).all()
        rectangles = [[0, 0, x, y], [x, 0, 60, y], [0, y, x, 40], [x, y, 60, 40]]
        areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in rectangles]
        seen = [i for i in range(4) if areas[i] >= 240]  # a tenth of 40 x 60
        assert boxes[row][valid[row]].tolist() == [rectangles[i] for i in seen]
        assert labels[row][valid[row]].tolist() == [drawn.rows[i] for i in seen]
    assert 0 < collages < 6
    assert (images == torch.arange(1, 7)[:, None, None, None]).all(), "the arguments do not change"


def _epoch(cache: DeviceCache, batch_size: int, epoch: int = 1, start: int = 0, **more: Any) -> Any:
    loader = make_loader(cache, batch_size, shuffle=True, seed=5, **more)
    sampler = loader.batch_sampler
    assert isinstance(sampler, EpochSampler)
    sampler.set_epoch(epoch)
    sampler.start_batch = start
    return list(loader)


def _images_of(batches: list[Batch]) -> list[tuple[Any, ...]]:
    """Return what a detector sees of each image, in order."""
    return [
        (image, boxes[valid], labels[valid], *rest)
        for batch in batches
        for image, boxes, labels, valid, *rest in zip(*batch, strict=True)
    ]


def test_batches_of_two_and_of_four_hold_the_same(split: Split) -> None:
    cache = DeviceCache(DetectionDataset(split, 64, augment=True), CPU)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pairs, fours = _images_of(_epoch(cache, 2)), _images_of(_epoch(cache, 4))
    assert torch.equal(torch.get_rng_state(), before), "torch's global random state does not change"
    assert len(pairs) == len(fours) == 22
    for one, other in zip(pairs, fours, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    again = _images_of(_epoch(cache, 4, epoch=2))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(fours, again, strict=True))


def test_a_resumed_epoch_goes_on_where_it_stopped(split: Split) -> None:
    """A resumed epoch gives the batches that were not yet seen."""
    dataset = DetectionDataset(split, 64, augment=True)
    whole = _epoch(DeviceCache(dataset, CPU), 4, mosaic_epochs=2)
    resumed = _epoch(DeviceCache(dataset, CPU), 4, start=3, mosaic_epochs=2)
    assert len(resumed) == 3
    for one, other in zip(whole[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_ranks_share_the_images(split: Split) -> None:
    cache = DeviceCache(DetectionDataset(split, 64, augment=True), CPU)
    ranks = [_epoch(cache, 4, num_replicas=2, rank=rank) for rank in range(2)]
    seen = [torch.cat([batch.image_ids for batch in batches]).tolist() for batches in ranks]
    assert sorted(seen[0] + seen[1]) == sorted(record.image_id for record in split.records)


def test_images_are_decoded_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    load = DetectionDataset.load

    def count(self: DetectionDataset, index: int) -> Tensor:
        loaded.append(index)
        return load(self, index)

    monkeypatch.setattr(DetectionDataset, "load", count)
    cache = DeviceCache(DetectionDataset(split, 64, augment=True), CPU)
    assert cache.bytes == 22 * 3 * 80 * 80, "96 pixels become 64 x 1.25"
    assert not loaded
    _epoch(cache, 4)
    _epoch(cache, 4, epoch=2)
    assert sorted(loaded) == list(range(22))


def test_a_damaged_image_becomes_grey_without_objects(tmp_path: Path) -> None:
    split = open_split(f"demo:images=5,size=64,folder={tmp_path}/demo")
    split.records[2].path.write_bytes(b"")
    with pytest.raises(BadData, match=r"000002\.jpg: cannot be read as an image"):
        DeviceCache(DetectionDataset(split, 64, augment=True), CPU)[0]
    split.tolerance = 0.5
    cache = DeviceCache(DetectionDataset(split, 64, augment=False), CPU)
    with pytest.warns(UserWarning, match="a grey picture without objects takes its place"):
        batch = cache[2]
    assert cache.damaged == [split.records[2].path]
    assert not batch.valid.any()
    assert (batch.images == GREY[:, None, None]).all()


def test_only_square_canvases(split: Split) -> None:
    cache = DeviceCache(DetectionDataset(split, 64, augment=True), CPU)
    with pytest.raises(ValueError, match="square batches only"):
        make_loader(cache, 4, shuffle=True, canvas="batch")


def test_no_memory_is_told_in_a_line(split: Split) -> None:
    """Too little memory gives an error of one line."""
    cache = DeviceCache(DetectionDataset(split, 64, augment=True), CPU)
    cache.shape = (10**12, *cache.shape[1:])
    with pytest.raises(UserError, match=r"GB of free .*: use --cache ram \(") as refused:
        cache[0]
    assert "\n" not in str(refused.value)
