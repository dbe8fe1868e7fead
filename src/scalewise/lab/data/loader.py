"""Batches that depend only on (seed, epoch, position), not on the process that loads them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from scalewise.lab.data.dataset import DetectionDataset, Item
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.sampler import EpochSampler
from scalewise.lab.data.transforms import GREY, canvas_side
from scalewise.lab.detectors.batch import Batch


class Collate:
    """Pads items into a `Batch`.

    Args:
        size: the data set's image size in pixels.
        canvas: "square" pads every batch to `size`, rounded up to a multiple of 32. All batches
            then have one shape, so nothing recompiles or re-tunes. "batch" pads to the largest
            image of the batch, rounded up in the same way: less work if all images are equally
            oblong, but shapes vary.

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

    Call `loader.batch_sampler.set_epoch(epoch)` before each pass: two passes with the same epoch
    give the same batches. The global random state does not change.

    Args:
        dataset: the images. A `DeviceCache` makes whole batches on its device, in this process;
            `workers` and `pin_memory` are then ignored.
        batch_size: images per batch and rank.
        shuffle: draw a new order each epoch (training).
        seed: seed of the order and of the augmentation.
        workers: number of loader processes; 0 loads in this process.
        drop_last: leave out the last batch if it is not full.
        num_replicas: number of data parallel ranks.
        rank: rank of this process, from 0.
        canvas: see `Collate`.
        pin_memory: use pinned memory, for faster copies to an accelerator.
        mosaic_epochs: see `EpochSampler`.

    Returns:
        The loader.

    Raises:
        ValueError: `batch_size` or `rank` is out of range, there is no batch to train on, or a
            `DeviceCache` is given with `canvas="batch"`.

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
