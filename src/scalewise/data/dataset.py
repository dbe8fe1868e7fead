"""The split as a torch data set whose randomness is a function of the request alone."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from scalewise.data.faults import BadData
from scalewise.data.mosaic import mosaic
from scalewise.data.split import ImageRecord, Split
from scalewise.data.transforms import as_boxes, eval_transforms, train_transforms


class Request(NamedTuple):
    """What the sampler asks of the data set.

    Attributes:
        item: index of the record in the split.
        seed: of this item's augmentation.
        mosaic: the image may become a collage with others of its batch.
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
        scale: (x, y) factors from original pixels to this image's; for an augmented image, whose
            corner may have moved, of its size only; for a collage, the mean of its images'.
        image_id: the record's; for a collage, of the image whose place it takes.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    scale: tuple[float, float]
    image_id: int


class DetectionDataset(Dataset[Item]):
    """Images of a split, resized and (for training) augmented.

    Crowd regions are left out of the objects; difficult objects and images without objects stay.

    Args:
        split: the images.
        size: the longer side becomes this many pixels.
        augment: train transforms instead of eval transforms.
        cache: "ram" keeps every decoded original in memory after its first use (3 bytes per
            pixel); workers started by fork share one copy, others have one each.
        flip: see `train_transforms`.
        color_jitter: see `train_transforms`.
        scale_jitter: see `train_transforms`.
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
            self.transforms = train_transforms(size, flip, color_jitter, scale_jitter)
        else:
            self.transforms = eval_transforms(size)
        self._cache = _PixelCache(split.records) if cache == "ram" else None

    def __len__(self) -> int:
        return len(self.split.records)

    def __getitem__(self, key: Request | int) -> Item:
        """Return one item; a plain index means augmentation seed 0.

        Torch's global generator is left as it was found.

        Raises:
            BadData: when the image can no longer be read.
        """
        index, seed, _ = key if isinstance(key, Request) else Request(key, 0)
        record = self.split.records[index]
        image = self._cache.get(index) if self._cache else _decode(record)
        trained = ~record.crowd
        target: dict[str, Any] = {
            "boxes": as_boxes(torch.from_numpy(record.boxes[trained]), record.height, record.width),
            "labels": torch.from_numpy(record.labels[trained]),
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
        """Return the items of a batch, with collages among them where the requests ask for it.

        Raises:
            BadData: when an image can no longer be read.
        """
        items = [self[key] for key in keys]
        seeds = [key.seed if isinstance(key, Request) and key.mosaic else None for key in keys]
        return mosaic(items, seeds)


def _decode(record: ImageRecord) -> Tensor:
    try:
        with Image.open(record.path) as file:
            pixels = np.array(file.convert("RGB"))  # [H, W, 3]
    except (OSError, SyntaxError) as error:
        raise BadData(f"{record.path}: cannot be read as an image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class _PixelCache:
    """Decoded images in one anonymous mapping, which forked workers fill and read together."""

    def __init__(self, records: list[ImageRecord]) -> None:
        self._records = records
        sizes = [3 * record.width * record.height for record in records]
        self._ends = np.cumsum(sizes)
        self._pixels = torch.frombuffer(mmap.mmap(-1, int(self._ends[-1])), dtype=torch.uint8)
        self._filled = torch.frombuffer(mmap.mmap(-1, len(records)), dtype=torch.uint8)

    def get(self, index: int) -> Tensor:
        record = self._records[index]
        end = int(self._ends[index])
        shape = (3, record.height, record.width)
        image = self._pixels[end - 3 * record.height * record.width : end].view(shape)
        if not self._filled[index]:
            image.copy_(_decode(record))
            self._filled[index] = 1
        return image

    def __reduce__(self) -> tuple[type[_PixelCache], tuple[list[ImageRecord]]]:
        return _PixelCache, (self._records,)
