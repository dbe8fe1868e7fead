"""A whole training set kept as bytes on the training device, and augmented there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from scalewise.errors import UserError
from scalewise.lab.data.batch_draws import Draw, draw_augmentation
from scalewise.lab.data.batch_mosaic import FlatObjects, put_together
from scalewise.lab.data.batch_transforms import fit_boxes, fit_images, fitting_size, send
from scalewise.lab.data.dataset import DetectionDataset, Request
from scalewise.lab.data.mosaic import FEWEST as FEWEST_FOR_COLLAGE
from scalewise.lab.data.split import Split
from scalewise.lab.data.transforms import canvas_side
from scalewise.lab.detectors.batch import Batch
from scalewise.threads import usable_cores


class DeviceCache(Dataset[Batch]):
    """Images of a data set on a device, which augments them in whole batches.

    The first batch decodes all images, once. Images whose longer side is above the data set's size
    at its largest zoom are resized to it. A batch has the same random choices and boxes as the
    data set gives for the same requests; pixels differ by a few grey values.

    Args:
        dataset: the images and their augmentation; it needs no cache.
        device: keeps the images and makes the batches.

    Attributes:
        dataset: as given.
        device: as given.
        shape: shape [N, 3, H, W] of the tensor that holds all images.

    Examples:
        >>> import torch
        >>> from scalewise.data import DetectionDataset, DeviceCache, make_loader, open_split
        >>> dataset = DetectionDataset(open_split("demo:images=10,size=64"), size=64, augment=True)
        >>> cache = DeviceCache(dataset, torch.device("cpu"))
        >>> cache.bytes
        122880
        >>> [len(batch.images) for batch in make_loader(cache, batch_size=4, shuffle=True)]
        [4, 4, 2]
    """

    def __init__(self, dataset: DetectionDataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        largest = dataset.augmentation.zoom[1]
        records = dataset.split.records
        self._originals = torch.tensor([(r.height, r.width) for r in records])  # [N, 2]
        self._sizes = torch.tensor(
            [fitting_size(dataset.size, largest, r.height, r.width) for r in records]
        )
        height, width = self._sizes.amax(0).tolist()
        self.shape = (len(records), 3, height, width)
        self._images: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Number of bytes that the images take on the device, known before any is decoded."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def split(self) -> Split:
        """The data set's split."""
        return self.dataset.split

    @property
    def damaged(self) -> list[Path]:
        """The image files found damaged so far."""
        return self.dataset.damaged

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Request | int) -> Batch:
        """Return a batch of one image; a plain index means augmentation seed 0."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Request | int]) -> Batch:
        """Return a batch on the device; some images become collages if their requests allow it.

        Raises:
            BadData: an image cannot be read, and `Split.tolerance` is reached.
            UserError: the images do not fit into the device's memory.
        """
        if self._images is None:
            self._images = self._decode()
        requests = [key if isinstance(key, Request) else Request(key, 0) for key in keys]
        chosen = torch.tensor([request.item for request in requests])
        originals = self._originals[chosen]  # [B, 2]
        draws = [
            draw_augmentation(
                self.dataset.augmentation, self.dataset.size, height, width, request.seed
            )
            for request, (height, width) in zip(requests, originals.tolist(), strict=True)
        ]
        images = fit_images(
            self._images[send(chosen, self.device)],
            self._sizes[chosen],
            draws,
            canvas_side(self.dataset.size),
        )
        objects = self._objects(requests, originals, draws)
        sizes = torch.tensor([(draw.window.height, draw.window.width) for draw in draws])  # [B, 2]
        scales = sizes.double() / originals
        ids = torch.tensor([self.split.records[request.item].image_id for request in requests])
        if len(requests) >= FEWEST_FOR_COLLAGE:
            seeds = [request.seed if request.mosaic else None for request in requests]
            images, objects, sizes, scales = put_together(images, objects, sizes, scales, seeds)
        boxes, labels, valid = objects.padded(len(requests))
        fields = (boxes, labels, valid, sizes, scales.float().flip(1), ids)
        return Batch(images, *(send(field, self.device) for field in fields))

    def _objects(
        self, requests: list[Request], originals: Tensor, draws: list[Draw]
    ) -> FlatObjects:
        """Return the objects of a batch after augmentation."""
        found = [self.dataset.objects(request.item) for request in requests]
        boxes, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        counts = torch.tensor([len(own) for _, own in found])
        owners = torch.arange(len(found)).repeat_interleave(counts)
        boxes, kept = fit_boxes(boxes, owners, originals, draws)
        return FlatObjects(boxes[kept], labels[kept], owners[kept])

    def _decode(self) -> Tensor:
        """Return all images, uint8 [N, 3, H, W] on the device, each in the upper left corner."""
        try:
            images = torch.empty(self.shape, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:
            raise UserError(
                f"--cache device: {self.device} has no {self.bytes / 1e9:.2f} GB of free memory "
                f"for the training images: use --cache ram ({str(error).splitlines()[0]})"
            ) from None
        threads = usable_cores()
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(images), threads):  # as many originals in memory as threads
                part = range(first, min(first + threads, len(images)))
                for row, original in zip(part, pool.map(self.dataset.load, part), strict=True):
                    height, width = self._sizes[row].tolist()
                    known = v2.functional.resize(original, [height, width], antialias=True)
                    images[row, :, :height, :width] = known.to(self.device)
        return images
