"""The random choices of training for the images of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scalewise.lab.data.transforms import Augmentation
from scalewise.lab.data.window import Window, draw_window

COLORS = 3  # brightness, contrast, saturation


class Draw(NamedTuple):
    """The random choices for one image.

    Attributes:
        window: how the image is resized and cut.
        flipped: whether it is then mirrored left to right.
        order: the order in which brightness (0), contrast (1) and saturation (2) change; may be
            empty.
        factors: the factors of brightness, contrast and saturation; may be empty.
    """

    window: Window
    flipped: bool
    order: tuple[int, ...]
    factors: tuple[float, ...]


def draw_augmentation(
    augmentation: Augmentation, size: int, height: int, width: int, seed: int
) -> Draw:
    """Draw what `train_transforms` draws when torch's global CPU generator has this seed.

    Args:
        augmentation: the ranges to draw from.
        size: length of the longer side at zoom 1, in pixels.
        height: height of the original image in pixels.
        width: width of the original image in pixels.
        seed: seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    window = draw_window(size, augmentation.zoom, height, width, generator)
    flipped = torch.rand(1, generator=generator).item() < augmentation.flip
    share = augmentation.color_jitter
    if not share:
        return Draw(window, flipped, (), ())
    order = torch.randperm(4, generator=generator).tolist()  # torchvision draws four; hue is unused
    factors = tuple(
        torch.empty(1).uniform_(max(0.0, 1 - share), 1 + share, generator=generator).item()
        for _ in range(COLORS)
    )
    return Draw(window, flipped, tuple(kind for kind in order if kind < COLORS), factors)
