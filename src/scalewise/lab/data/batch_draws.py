"""What training draws for the images of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scalewise.lab.data.transforms import Augmentation
from scalewise.lab.data.window import Window, draw_window

COLORS = 3  # brightness, contrast, saturation


class Draw(NamedTuple):
    """What was drawn for one image.

    Attributes:
        window: how it is resized and cut.
        flipped: mirrored left to right after that.
        order: in which brightness (0), contrast (1) and saturation (2) are changed; may be empty.
        factors: of brightness, contrast and saturation; may be empty.
    """

    window: Window
    flipped: bool
    order: tuple[int, ...]
    factors: tuple[float, ...]


def draw_augmentation(
    augmentation: Augmentation, size: int, height: int, width: int, seed: int
) -> Draw:
    """Draw as `train_transforms` does once torch's global CPU generator has this seed.

    Args:
        augmentation: what is drawn.
        size: of the longer side at zoom 1, in pixels.
        height: of the original image in pixels.
        width: of the original image in pixels.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    window = draw_window(size, augmentation.zoom, height, width, generator)
    flipped = torch.rand(1, generator=generator).item() < augmentation.flip
    share = augmentation.color_jitter
    if not share:
        return Draw(window, flipped, (), ())
    order = torch.randperm(4, generator=generator).tolist()  # of torchvision's four, hue is unused
    factors = tuple(
        torch.empty(1).uniform_(max(0.0, 1 - share), 1 + share, generator=generator).item()
        for _ in range(COLORS)
    )
    return Draw(window, flipped, tuple(kind for kind in order if kind < COLORS), factors)
