"""Batches: order, seeds, padding, resuming, ranks, workers and the cache in memory."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch

from scalewise.data import (
    BadData,
    Collate,
    DetectionDataset,
    EpochSampler,
    Item,
    Request,
    Split,
    make_loader,
    open_split,
)
from scalewise.lab.detectors.batch import Batch


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("demo")
    return open_split(f"demo:images=22,size=96,folder={folder}/demo")


def _batches(
    split: Split,
    epochs: list[int],
    workers: int = 0,
    start: int = 0,
    seed: int = 7,
    cache: Literal["none", "ram"] = "none",
    mosaic_epochs: int = 0,
) -> list[Batch]:
    loader = make_loader(
        DetectionDataset(split, 64, augment=True, cache=cache),
        4,
        shuffle=True,
        seed=seed,
        workers=workers,
        mosaic_epochs=mosaic_epochs,
    )
    sampler = loader.batch_sampler
    assert isinstance(sampler, EpochSampler)
    result: list[Batch] = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        if epoch == epochs[0]:
            sampler.start_batch = start
        result += loader
    return result


def _equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b)
        for one, two in zip(ours, theirs, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("mosaic_epochs", [0, 2])
def test_batches_depend_on_seed_and_epoch_alone(split: Split, mosaic_epochs: int) -> None:
    load = partial(_batches, split, mosaic_epochs=mosaic_epochs)
    torch.manual_seed(1)
    once = load([0, 1])
    torch.manual_seed(2)
    assert _equal(once, load([0, 1]))
    assert _equal(once[6:], load([1]))
    assert _equal(once, load([0, 1], workers=2))
    assert _equal(once, load([0, 1], cache="ram"))
    assert not _equal(once, load([0, 1], seed=8))


@pytest.mark.parametrize("workers", [0, 2])
def test_collages_end_with_their_epochs(split: Split, workers: int) -> None:
    plain = _batches(split, [0, 1, 2])
    found = _batches(split, [0, 1, 2], workers=workers, mosaic_epochs=2)
    counts = []
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one.image_ids, other.image_ids)
        counts.append(int((one.images != other.images).flatten(1).any(1).sum()))
    assert 10 < sum(counts) < 30, "about half of the images in ten batches of four"
    assert [counts[5], counts[11]] == [0, 0], "batches of two"
    assert _equal(plain[12:], found[12:])


def test_every_epoch_has_its_own_order_of_all_images(split: Split) -> None:
    sampler = EpochSampler(len(split.records), 4, shuffle=True)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(tuple(request.item for batch in sampler for request in batch))
        assert sorted(orders[-1]) == list(range(len(split.records)))
    assert len(set(orders)) == 3


def test_augmentation_differs_between_epochs_and_images(split: Split) -> None:
    sampler = EpochSampler(len(split.records), 4, shuffle=True)
    seeds = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seeds |= {request.seed for batch in sampler for request in batch}
    assert len(seeds) == 3 * len(split.records)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mosaic_epochs", [0, 4])
def test_a_resumed_epoch_goes_on_where_it_stopped(
    split: Split, workers: int, mosaic_epochs: int
) -> None:
    """A resumed epoch gives the batches that were not yet seen."""
    whole = _batches(split, [3, 4], mosaic_epochs=mosaic_epochs)
    resumed = _batches(split, [3, 4], workers=workers, start=4, mosaic_epochs=mosaic_epochs)
    assert _equal(whole[4:], resumed)


def test_skipped_batches_load_nothing(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    load = DetectionDataset.__getitem__

    def count(self: DetectionDataset, key: Request) -> Item:
        loaded.append(key.item)
        return load(self, key)

    monkeypatch.setattr(DetectionDataset, "__getitem__", count)
    assert len(_batches(split, [0], start=4)) == 2
    assert len(loaded) == 22 - 16


def test_the_global_random_state_is_left_alone(split: Split) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _batches(split, [0], mosaic_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_items_follow_the_batch_contract(split: Split) -> None:
    for batch in _batches(split, [0]):
        size, most = batch.images.shape[0], batch.boxes.shape[1]
        assert batch.images.shape == (size, 3, 64, 64)
        whole = torch.int64
        assert [field.dtype for field in batch] == [
            torch.uint8, torch.float32, whole, torch.bool, whole, torch.float32, whole,
        ]  # fmt: skip
        assert batch.labels.shape == batch.valid.shape == (size, most)
        assert not batch.boxes[~batch.valid].any()
        assert not batch.labels[~batch.valid].any()
        assert (batch.boxes[..., :2] <= batch.boxes[..., 2:]).all()
        edges = batch.sizes.flip(1).repeat(1, 2)[:, None]
        assert (batch.boxes <= edges).all()
        known = {record.image_id: record for record in split.records}
        for image_id, (height, width), count in zip(
            batch.image_ids.tolist(), batch.sizes.tolist(), batch.valid.sum(1), strict=True
        ):
            assert max(height, width) <= 64
            assert count <= len(known[image_id].boxes)


@pytest.mark.parametrize(
    ("canvas", "size", "expected"),
    [("square", 90, (96, 96)), ("square", 96, (96, 96)), ("batch", 90, (32, 96))],
)
def test_padding(canvas: str, size: int, expected: tuple[int, int]) -> None:
    items = [
        Item(
            image=torch.full((3, 20 + row, 65), 200, dtype=torch.uint8),
            boxes=torch.tensor([[1.0, 2, 3, 4]])[:row],
            labels=torch.tensor([5])[:row],
            scale=(0.5, 0.25),
            image_id=40 + row,
        )
        for row in range(2)
    ]
    batch = Collate(size, "batch" if canvas == "batch" else "square")(items)
    assert tuple(batch.images.shape) == (2, 3, *expected)
    for row in range(2):
        inside = torch.zeros(expected, dtype=torch.bool)
        inside[: 20 + row, :65] = True
        assert (batch.images[row][:, inside] == 200).all()
        assert (batch.images[row][:, ~inside] < 130).all()
    assert batch.valid.tolist() == [[False], [True]]
    assert batch.boxes[1, 0].tolist() == [1, 2, 3, 4]
    assert batch.labels.tolist() == [[0], [5]]
    assert batch.scales.tolist() == [[0.5, 0.25]] * 2
    assert batch.image_ids.tolist() == [40, 41]
    assert Collate(size)(items[:1]).boxes.shape == (1, 0, 4)


@pytest.mark.parametrize("length", [22, 24, 25])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_the_images(length: int, drop_last: bool) -> None:
    def ranks(shuffle: bool) -> list[list[list[int]]]:
        return [
            [
                [request.item for request in batch]
                for batch in EpochSampler(length, 4, shuffle, 1, drop_last, 3, rank)
            ]
            for rank in range(3)
        ]

    shuffled = ranks(shuffle=True)
    assert len({tuple(len(batch) for batch in batches) for batches in shuffled}) == 1
    flat = [index for batches in shuffled for batch in batches for index in batch]
    if drop_last:
        assert all(len(batch) == 4 for batches in shuffled for batch in batches)
    else:
        assert set(flat) == set(range(length))
        assert len(flat) - length < 3  # only as many repeated as the ranks need
        plain = [index for batches in ranks(shuffle=False) for batch in batches for index in batch]
        assert sorted(plain) == list(range(length))


@pytest.mark.parametrize("length", [1, 2])
def test_fewer_images_than_ranks(length: int) -> None:
    for rank in range(5):
        assert len(list(EpochSampler(length, 2, True, num_replicas=5, rank=rank))) == 1


def test_length_is_the_epochs(split: Split) -> None:
    """The length counts all batches, also those that a resumed epoch skips."""
    loader = make_loader(DetectionDataset(split, 64, augment=True), 4, shuffle=True)
    assert len(loader) == len(list(loader)) == 6
    dropping = make_loader(DetectionDataset(split, 64, True), 4, shuffle=True, drop_last=True)
    assert len(dropping) == len(list(dropping)) == 5


def test_no_batch_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match=r"22 images on 1 rank.* do not fill one of 23"):
        make_loader(DetectionDataset(split, 64, True), 23, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match="0 <= rank < num_replicas"):
        EpochSampler(5, 2, True, num_replicas=2, rank=2)


def test_the_cache_changes_nothing_and_spares_decoding(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DetectionDataset(split, 64, augment=True)
    cached = DetectionDataset(split, 64, augment=True, cache="ram")
    expected = [plain[index].image for index in range(5)]
    assert all(torch.equal(cached[index].image, expected[index]) for index in range(5))
    copied = pickle.loads(pickle.dumps(cached))  # as in workers that are not forked
    monkeypatch.setattr("scalewise.lab.data.pixel_cache.decode_image", _fail)
    assert all(torch.equal(cached[index].image, expected[index]) for index in range(5))
    with pytest.raises(AssertionError, match="decoded"):
        copied[0]


def _fail(*_: object) -> None:
    raise AssertionError("decoded")


def test_forked_workers_fill_the_cache_for_all(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.multiprocessing.get_start_method() != "fork":
        pytest.skip("workers are not forked on this platform")
    dataset = DetectionDataset(split, 64, augment=False, cache="ram")
    through_workers = list(make_loader(dataset, 4, shuffle=False, workers=2))
    monkeypatch.setattr("scalewise.lab.data.pixel_cache.decode_image", _fail)
    assert _equal(through_workers, list(make_loader(dataset, 4, shuffle=False)))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_an_image_lost_after_the_check_is_named(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    split = open_split(f"demo:images=5,size=64,folder={tmp_path}/demo")
    damage(split.records[2].path)
    with pytest.raises(
        BadData, match=r"000002\.jpg: (no such image file|cannot be read as an image)"
    ):
        DetectionDataset(split, 64, augment=False)[2]
