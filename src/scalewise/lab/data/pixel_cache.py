"""Decoded images, shared by the processes of a training run."""

from __future__ import annotations

import math
import mmap

import numpy as np
import torch
from torch import Tensor

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.image_shrink import shrink_of, shrunk
from scalewise.lab.data.images import load_shrunk


def decode_image(record: ImageRecord, size: int) -> Tensor:
    """Return an image's pixels, uint8 [3, H, W], of `decoded_shape`.

    Args:
        record: the image's record.
        size: length of the longer side that the network sees, in pixels.

    Raises:
        BadData: the image cannot be read, or no longer has the size in the record.
    """
    image = load_shrunk(record.path, size)
    if (image.width, image.height) != (record.width, record.height):
        raise BadData(
            f"{record.path}: is now {image.width}x{image.height} pixels; it was "
            f"{record.width}x{record.height} when the split was read"
        )
    return torch.from_numpy(image.pixels).permute(2, 0, 1).contiguous()


def decoded_shape(record: ImageRecord, size: int) -> tuple[int, int, int]:
    """Return the shape of the result of `decode_image`, without opening the file."""
    shrink = shrink_of(record.width, record.height, size)
    width, height = shrunk(record.width, record.height, shrink)
    return 3, height, width


class PixelCache:
    """Decoded images in one block of memory, which forked workers fill and read together."""

    def __init__(self, records: list[ImageRecord], size: int) -> None:
        self._records, self._size = records, size
        sizes = [math.prod(decoded_shape(record, size)) for record in records]
        self._ends = np.cumsum(sizes)
        self._pixels = torch.frombuffer(mmap.mmap(-1, int(self._ends[-1])), dtype=torch.uint8)
        self._filled = torch.frombuffer(mmap.mmap(-1, len(records)), dtype=torch.uint8)

    def get(self, index: int) -> Tensor:
        """Return the pixels of an image; it is decoded unless a process has done so before."""
        record = self._records[index]
        end = int(self._ends[index])
        shape = decoded_shape(record, self._size)
        image = self._pixels[end - math.prod(shape) : end].view(shape)
        if not self._filled[index]:
            image.copy_(decode_image(record, self._size))
            self._filled[index] = 1
        return image

    def __reduce__(self) -> tuple[type[PixelCache], tuple[list[ImageRecord], int]]:
        return PixelCache, (self._records, self._size)
