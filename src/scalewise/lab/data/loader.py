"""Batches whose content is a function of (seed, epoch, position), whoever loads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from scalewise.lab.data.dataset import DetectionDataset, Item, Request
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.transforms import GREY, canvas_side
from scalewise.lab.detectors.batch import Batch


class EpochSampler(Sampler[list[Request]]):
    """Batches of requests for one epoch, in an order drawn from (seed, epoch).

    Each request carries its own augmentation seed, drawn from (seed, epoch, index). So neither the
    number of workers nor the point where a run was resumed changes what a batch holds.

    Under data parallelism each rank takes every `num_replicas`-th image. When shuffling, the order
    is filled up from its start so that all ranks have equally many batches; otherwise (evaluation)
    each image occurs exactly once.

    Args:
        length: number of images.
        batch_size: images per batch and rank.
        shuffle: draw a new order each epoch.
        seed: of order and augmentation.
        drop_last: leave out the last batch when it is not full.
        num_replicas: number of ranks.
        rank: of this process.
        mosaic_epochs: in so many epochs, from the first, images become collages, see `mosaic`.

    Attributes:
        epoch: the epoch whose batches the next pass yields.
        start_batch: number of batches that the next pass skips without loading anything, to resume
            inside an epoch. Falls back to 0 once that pass begins. The length stays the epoch's.

    Examples:
        >>> from scalewise.data import EpochSampler
        >>> sampler = EpochSampler(length=5, batch_size=2, shuffle=False)
        >>> [[request.item for request in batch] for batch in sampler]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
        mosaic_epochs: int = 0,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < num_replicas:
            raise ValueError(
                f"needs batch_size >= 1 and 0 <= rank < num_replicas, got {batch_size}, "
                f"{rank} and {num_replicas}"
            )
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.drop_last, self.num_replicas, self.rank = drop_last, num_replicas, rank
        self.mosaic_epochs = mosaic_epochs
        self.epoch = 0
        self.start_batch = 0
        if len(self) == 0 and shuffle:
            raise ValueError(
                f"no batch: {length} images on {num_replicas} rank(s) do not fill one of "
                f"{batch_size}; lower the batch size or set drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        own = self._share()
        return own // self.batch_size if self.drop_last else -(-own // self.batch_size)

    def __iter__(self) -> Iterator[list[Request]]:
        # all state is read at the first batch: a loader with workers also makes an unused iterator
        start, self.start_batch, epoch = self.start_batch, 0, self.epoch
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
            order = np.resize(order, self._share() * self.num_replicas)
        own = order[self.rank :: self.num_replicas]
        mosaic = epoch < self.mosaic_epochs
        for batch in range(start, len(self)):
            first = batch * self.batch_size
            indices = (int(index) for index in own[first : first + self.batch_size])
            yield [Request(index, self._item_seed(epoch, index), mosaic) for index in indices]

    def _share(self) -> int:
        """Return the number of images of this rank."""
        if self.shuffle:
            return -(-self.length // self.num_replicas)
        return len(range(self.rank, self.length, self.num_replicas))

    def _item_seed(self, epoch: int, index: int) -> int:
        sequence = np.random.SeedSequence([self.seed, epoch, index])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class Collate:
    """Pads items into a `Batch`.

    Args:
        size: the data set's image size in pixels.
        canvas: "square" pads every batch to `size` rounded up to a multiple of 32: one shape for
            all batches, so nothing recompiles or re-tunes. "batch" pads to the largest image of the
            batch: less work where all images are equally oblong, at the price of varying shapes.

    Examples:
        >>> from scalewise.data import Collate, DetectionDataset, open_split
        >>> dataset = DetectionDataset(open_split("demo:images=10,size=64"), size=96, augment=False)
        >>> Collate(96)([dataset[0], dataset[1]]).images.shape
        torch.Size([2, 3, 96, 96])
    """

    def __init__(self, size: int, canvas: Literal["square", "batch"] = "square") -> None:
        self.size, self.canvas = size, canvas

    def __call__(self, items: list[Item]) -> Batch:
        """Return the padded batch."""
        sizes = [(item.image.shape[1], item.image.shape[2]) for item in items]
        sides = (self.size, self.size)
        if self.canvas == "batch":
            sides = (max(height for height, _ in sizes), max(width for _, width in sizes))
        height, width = (canvas_side(side) for side in sides)
        count = max(len(item.labels) for item in items)
        fill = torch.tensor(GREY, dtype=torch.uint8)[:, None, None]
        images = fill.expand(len(items), 3, height, width).clone()  # [B, 3, H, W]
        boxes = torch.zeros(len(items), count, 4)  # [B, M, 4]
        labels = torch.zeros(len(items), count, dtype=torch.int64)
        valid = torch.zeros(len(items), count, dtype=torch.bool)
        for row, item in enumerate(items):
            own = len(item.labels)
            images[row, :, : item.image.shape[1], : item.image.shape[2]] = item.image
            boxes[row, :own] = item.boxes
            labels[row, :own] = item.labels
            valid[row, :own] = True
        return Batch(
            images=images,
            boxes=boxes,
            labels=labels,
            valid=valid,
            sizes=torch.tensor(sizes, dtype=torch.int64),
            scales=torch.tensor([item.scale for item in items], dtype=torch.float32),
            image_ids=torch.tensor([item.image_id for item in items], dtype=torch.int64),
        )


def make_loader(
    dataset: DetectionDataset | DeviceCache,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool = False,
    num_replicas: int = 1,
    rank: int = 0,
    canvas: Literal["square", "batch"] = "square",
    pin_memory: bool = False,
    mosaic_epochs: int = 0,
) -> DataLoader[Any]:
    """Return a loader of `Batch`es; its `batch_sampler` is an `EpochSampler`.

    Call `loader.batch_sampler.set_epoch(epoch)` before each pass: passes of one epoch are alike.
    The global random state is not touched.

    Args:
        dataset: the images. A `DeviceCache` makes whole batches on its device and in this process:
            `workers` and `pin_memory` do not apply then.
        batch_size: images per batch and rank.
        shuffle: draw a new order each epoch (training).
        seed: of order and augmentation.
        workers: loading processes; 0 loads in this one.
        drop_last: leave out the last batch when it is not full.
        num_replicas: number of data parallel ranks.
        rank: of this process.
        canvas: see `Collate`.
        pin_memory: for faster copies to an accelerator.
        mosaic_epochs: see `EpochSampler`.

    Returns:
        The loader.

    Raises:
        ValueError: when the options leave no batch to train on, or for a `DeviceCache` with
            `canvas="batch"`.

    Examples:
        >>> from scalewise.data import DetectionDataset, make_loader, open_split
        >>> dataset = DetectionDataset(open_split("demo:images=10,size=64"), size=64, augment=True)
        >>> loader = make_loader(dataset, batch_size=4, shuffle=True)
        >>> [len(batch.images) for batch in loader]
        [4, 4, 2]
    """
    sampler = EpochSampler(
        len(dataset), batch_size, shuffle, seed, drop_last, num_replicas, rank, mosaic_epochs
    )
    if isinstance(dataset, DeviceCache):
        if canvas != "square":
            raise ValueError(f'a DeviceCache makes square batches only, got canvas="{canvas}"')
        return DataLoader(
            dataset, batch_sampler=sampler, collate_fn=_as_it_is, generator=torch.Generator()
        )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=Collate(dataset.size, canvas),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch
