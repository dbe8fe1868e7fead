"""The split as a torch data set. Its random choices depend only on the request."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalewise.lab.data.faults import BadData, are_few
from scalewise.lab.data.mosaic import mosaic
from scalewise.lab.data.pixel_cache import PixelCache, decode_image, decoded_shape
from scalewise.lab.data.split import Split
from scalewise.lab.data.transforms import (
    GREY,
    Augmentation,
    as_boxes,
    eval_transforms,
    train_transforms,
)


class Request(NamedTuple):
    """What the sampler asks of the data set.

    Attributes:
        item: index of the record in the split.
        seed: seed of this item's augmentation.
        mosaic: whether the image may become a collage with others of its batch.

    Examples:
        >>> from scalewise.data import DetectionDataset, Request, open_split
        >>> dataset = DetectionDataset(open_split("demo:images=10,size=64"), size=64, augment=True)
        >>> same, again = dataset[Request(0, seed=7)], dataset[Request(0, seed=7)]
        >>> same.image.equal(again.image)
        True
    """

    item: int
    seed: int
    mosaic: bool = False


class Item(NamedTuple):
    """One image ready for batching.

    Attributes:
        image: uint8 [3, h, w], RGB.
        boxes: float32 [k, 4], corners in pixels of this image.
        labels: int64 [k].
        scale: (x, y) size of this image divided by the original size. Without augmentation, these
            factors turn original pixels into pixels of this image. For a collage: the mean of its
            four images.
        image_id: id of the record; for a collage, of the image that it replaces.

    Examples:
        >>> from scalewise.data import DetectionDataset, open_split
        >>> item = DetectionDataset(open_split("demo:images=10,size=64"), size=96, augment=False)[0]
        >>> item.scale  # the image was enlarged from 64 to 96 pixels
        (1.5, 1.5)
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    scale: tuple[float, float]
    image_id: int


class DetectionDataset(Dataset[Item]):
    """Images of a split, resized and (for training) augmented.

    Images far larger than `size` are decoded small (`image_shrink`), in the same way with any cache
    and any augmentation.

    Crowd regions are left out of the objects; difficult objects and images without objects stay.

    A damaged image is replaced by a grey one without objects, with one warning per image over all
    passes and loader processes. If their share reaches `Split.tolerance`, loading stops with an
    error.

    Args:
        split: the images.
        size: the longer side becomes this many pixels.
        augment: use the transforms of training instead of those of evaluation.
        cache: "ram" keeps every decoded image in memory after its first use (3 bytes per pixel).
            Workers started by fork share one copy, others have one each.
        flip: see `train_transforms`.
        color_jitter: see `train_transforms`.
        scale_jitter: see `train_transforms`.

    Examples:
        >>> from scalewise.data import DetectionDataset, open_split
        >>> dataset = DetectionDataset(open_split("demo:images=10,size=64"), size=96, augment=False)
        >>> len(dataset), dataset[0].image.shape
        (10, torch.Size([3, 96, 96]))
    """

    def __init__(
        self,
        split: Split,
        size: int,
        augment: bool,
        cache: Literal["none", "ram"] = "none",
        flip: float = 0.5,
        color_jitter: float = 0.2,
        scale_jitter: tuple[float, float] = (0.75, 1.25),
    ) -> None:
        self.split, self.size, self.augment = split, size, augment
        if augment:
            self.augmentation = Augmentation(flip, color_jitter, scale_jitter)
            self.transforms = train_transforms(size, flip, color_jitter, scale_jitter)
        else:
            self.augmentation = Augmentation(0.0, 0.0, (1.0, 1.0))
            self.transforms = eval_transforms(size)
        self._cache = PixelCache(split.records, size) if cache == "ram" else None
        self._damaged = _shared_flags(len(split.records))
        self._told = _shared_flags(len(split.records))

    def warn_with(self, other: DetectionDataset) -> None:
        """Share warnings with another data set over the same files, so that none comes twice.

        Args:
            other: any data set; if its files are not the same, nothing changes.
        """
        if [r.path for r in self.split.records] == [r.path for r in other.split.records]:
            self._told = other._told

    @property
    def damaged(self) -> list[Path]:
        """The image files found damaged so far, by any loader process."""
        return [self.split.records[i].path for i in np.flatnonzero(self._damaged.numpy())]

    def __len__(self) -> int:
        return len(self.split.records)

    def __getitem__(self, key: Request | int) -> Item:
        """Return one item; a plain index means augmentation seed 0.

        The state of torch's global generator does not change.

        Raises:
            BadData: the image cannot be read, and `Split.tolerance` is reached.
        """
        index, seed, _ = Request(*key) if isinstance(key, tuple) else Request(key, 0)
        record = self.split.records[index]
        image = self.load(index)
        boxes, labels = self.objects(index)
        target: dict[str, Any] = {
            "boxes": as_boxes(boxes, record.height, record.width),
            "labels": labels,
        }
        # not torch.manual_seed: that would also reseed every accelerator
        generator = torch.default_generator
        state = generator.get_state()
        try:
            generator.manual_seed(seed)
            image, target = self.transforms(image, target)
        finally:
            generator.set_state(state)
        height, width = image.shape[-2:]
        return Item(
            image=image,
            boxes=target["boxes"].as_subclass(Tensor),
            labels=target["labels"],
            scale=(width / record.width, height / record.height),
            image_id=record.image_id,
        )

    def __getitems__(self, keys: Sequence[Request | int]) -> list[Item]:
        """Return the items of a batch; some become collages if their requests allow it.

        Raises:
            BadData: an image cannot be read, and `Split.tolerance` is reached.
        """
        items = [self[key] for key in keys]
        seeds = [key.seed if isinstance(key, Request) and key.mosaic else None for key in keys]
        return mosaic(items, seeds)

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the objects of an image to train on; none if it was found damaged.

        Args:
            index: index of the record in the split.

        Returns:
            Boxes, float32 [k, 4], corners in pixels of the original image, and labels, int64 [k].
        """
        record = self.split.records[index]
        trained = ~record.crowd & (not self._damaged[index])
        return torch.from_numpy(record.boxes[trained]), torch.from_numpy(record.labels[trained])

    def load(self, index: int) -> Tensor:
        """Return the decoded pixels of an image, or grey if it is damaged.

        Args:
            index: index of the record in the split.

        Returns:
            uint8 [3, H, W], of the original size, or smaller if that is far above `size`.

        Raises:
            BadData: the image cannot be read, and `Split.tolerance` is reached.
        """
        record = self.split.records[index]
        try:
            return self._cache.get(index) if self._cache else decode_image(record, self.size)
        except BadData as error:
            told, self._told[index], self._damaged[index] = bool(self._told[index]), True, True
            count, tolerance = int(self._damaged.sum()), self.split.tolerance
            if not are_few(count, len(self.split.records), tolerance):
                raise
            if not told:
                what = f"{error}; a grey picture without objects takes its place"
                warnings.warn(what, stacklevel=2)
        grey = torch.tensor(GREY, dtype=torch.uint8)[:, None, None]
        return grey.repeat(1, *decoded_shape(record, self.size)[1:])


def _shared_flags(count: int) -> Tensor:
    """Return False for each image, bool [count], in memory that all loader processes share."""
    flags = torch.zeros(count, dtype=torch.bool)
    cast(Any, flags).share_memory_()
    return flags
