"""The transforms of training for a whole batch at once, on any device.

Each image gets the same random choices and boxes as from `train_transforms` with the same seed. Its
pixels are computed by matrix products, from an image of `fitting_size`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scalewise.lab.data.batch_draws import COLORS, Draw
from scalewise.lab.data.transforms import GREY, LEAST_SIDE
from scalewise.lab.data.window import cut_boxes

_LUMA = (0.2989, 0.587, 0.114)  # as in torchvision


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy values from the CPU to a device, without waiting for the device's earlier work."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def grey_padding(device: torch.device) -> Tensor:
    """Return the colour around images, uint8 [3, 1, 1]."""
    return send(torch.tensor(GREY, dtype=torch.uint8)[:, None, None], device)


def fitting_size(size: int, zoom: float, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) at which an image is kept, large enough for a zoom.

    Args:
        size: length of the longer side at zoom 1, in pixels.
        zoom: the largest factor that will be drawn.
        height: height of the original image in pixels.
        width: width of the original image in pixels.

    Returns:
        The original size in pixels, or less if the longer side is above `size * zoom`.
    """
    longest = math.ceil(size * zoom)
    if max(height, width) <= longest:
        return height, width
    factor = longest / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def fit_images(images: Tensor, sizes: Tensor, draws: Sequence[Draw], side: int) -> Tensor:
    """Resize, cut, mirror and colour images as drawn.

    Args:
        images: uint8 [B, 3, H, W], each image in the upper left corner.
        sizes: int64 [B, 2] on the CPU, (height, width) of each image in pixels.
        draws: one for each image.
        side: side of the result in pixels.

    Returns:
        uint8 [B, 3, side, side], each image in the upper left corner, grey around it.
    """
    known = sizes.tolist()
    plans = [
        [
            (own[axis], w.resized[axis], (w.top, w.left)[axis], w[3 + axis], flip * axis)
            for own, (w, flip, *_) in zip(known, draws, strict=True)
        ]
        for axis in (0, 1)
    ]
    down, across = send(torch.tensor(plans, dtype=torch.float32), images.device)  # [B, 5] each
    place = torch.arange(side, device=images.device)
    inside = (place < down[:, 3:4])[:, :, None] & (place < across[:, 3:4])[:, None]
    inside = inside[:, None]  # [B, 1, side, side]
    columns = _resampling(across, side, images.shape[3])[:, None]
    pixels = images.float() @ columns.transpose(2, 3)  # [B, 3, H, side]
    pixels = (_resampling(down, side, images.shape[2])[:, None] @ pixels).round_()
    if draws[0].order:
        pixels = _change_colors(pixels, inside, draws)
    return torch.where(inside, pixels.to(torch.uint8), grey_padding(images.device))


def _resampling(plan: Tensor, outputs: int, inputs: int) -> Tensor:
    """Weights of the old pixels in the resized ones, along one side: bilinear, antialiased.

    Args:
        plan: float32 [B, 5]: number of pixels before resizing, number after resizing, first
            resized pixel that is kept, number of pixels kept, and 1 if they are mirrored.
        outputs: number of rows of the result.
        inputs: number of columns of the result.

    Returns:
        float32 [B, outputs, inputs]; 0 beyond the pixels that are kept and that exist.
    """
    known, resized, first, kept, mirrored = plan.t()[..., None]  # [B, 1] each
    place = torch.arange(outputs, device=plan.device)
    tap = torch.arange(inputs, device=plan.device)
    step = known / resized
    source = torch.where(mirrored > 0, kept - 1 - place, place) + first  # [B, outputs]
    middle = (source + 0.5) * step
    away = (tap + 0.5 - middle[..., None]).abs() / step.clamp(min=1)[..., None]
    weights = (1 - away).clamp(min=0) * (tap < known)[:, None]
    total = weights.sum(2, keepdim=True)
    return torch.where((place < kept)[..., None], weights / total, 0.0)


def _change_colors(pixels: Tensor, inside: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Change brightness, contrast and saturation of float32 [B, 3, H, W], whole numbers.

    Each step blends the image with black, with its mean grey or with its grey version, and rounds
    down as torchvision does. The pixels are changed in place.
    """
    order = send(torch.tensor([draw.order for draw in draws]), pixels.device)  # [B, 3]
    factors = send(torch.tensor([draw.factors for draw in draws]), pixels.device)  # [B, 3]
    area = inside.sum((1, 2, 3), dtype=torch.float32)  # [B]
    for turn in range(COLORS):
        kind = order[:, turn]
        factor = factors.gather(1, kind[:, None])[..., None, None]  # [B, 1, 1, 1]
        red, green, blue = pixels.unbind(1)
        grey = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).floor_()
        mean = grey.sum((1, 2)) / area  # [B]
        grey = grey[:, None] * (kind == 2)[:, None, None, None]
        grey += inside * (mean * (kind == 1))[:, None, None, None]
        pixels = pixels.mul_(factor).add_(grey * (1 - factor)).clamp_(0, 255).floor_()
    return pixels


def fit_boxes(
    boxes: Tensor, owners: Tensor, sizes: Tensor, draws: Sequence[Draw]
) -> tuple[Tensor, Tensor]:
    """Resize, cut, mirror and clip the boxes of a batch as drawn.

    Args:
        boxes: float32 [k, 4], corners in pixels of the original images.
        owners: int64 [k], the batch row of each box's image.
        sizes: int64 [B, 2], (height, width) of the original images in pixels.
        draws: one for each image.

    Returns:
        The boxes, float32 [k, 4], and bool [k]: which of them stay. A box stays if its centre is
        not cut away and it is at least one pixel wide and high.
    """
    windows = [draw.window for draw in draws]
    resized = torch.tensor([w.resized for w in windows], dtype=torch.float64)  # [B, 2]
    ratios = (resized / sizes).float().flip(1).repeat(1, 2)  # [B, 4]
    corners = torch.tensor([(w.left, w.top) for w in windows])[owners]  # [k, 2]
    sides = torch.tensor([(w.width, w.height) for w in windows])[owners]
    moved, kept = cut_boxes(boxes * ratios[owners], corners, sides)
    flipped = torch.tensor([draw.flipped for draw in draws])[owners, None]
    mirrored = torch.stack(
        [sides[:, 0] - moved[:, 2], moved[:, 1], sides[:, 0] - moved[:, 0], moved[:, 3]], 1
    )
    moved = torch.where(flipped, mirrored, moved)
    moved = moved.clamp(min=0).minimum(sides.repeat(1, 2).to(moved.dtype))
    return moved, kept & (moved[:, 2:] - moved[:, :2] >= LEAST_SIDE).all(1)
