"""Transforms of an original image and its boxes to the network's input size."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from scalewise.lab.data.window import cut_boxes, draw_window

Sample = tuple[Tensor, dict[str, Any]]
GREY = (124, 116, 104)  # ImageNet's mean colour: padding is near 0 after normalisation
LEAST_SIDE = 1.0  # pixels; narrower boxes are dropped
_STRIDE = 32


def canvas_side(side: int) -> int:
    """Return a side in pixels, rounded up to a multiple of 32."""
    return -(-side // _STRIDE) * _STRIDE


class Augmentation(NamedTuple):
    """The ranges of the random choices for each image of each epoch, see `train_transforms`.

    Attributes:
        flip: probability of mirroring left to right.
        color_jitter: share by which brightness, contrast and saturation vary.
        zoom: (low, high) factors of the size.
    """

    flip: float
    color_jitter: float
    zoom: tuple[float, float]


class FitLongerSide(nn.Module):
    """Resize so that the longer side is `size` times a random zoom; the aspect is kept.

    If the image becomes larger than `size`, a random window of `size` is cut out, and objects with
    their centre outside are dropped. A smaller image stays smaller; the batch pads it.

    The canvas of the boxes has to be the size of the original image, from which the new size is
    computed. The image itself may have been decoded smaller.

    Args:
        size: length of the longer side at zoom 1, in pixels.
        zoom: (low, high) factors, drawn log-uniformly; with (1, 1) nothing is drawn.
    """

    def __init__(self, size: int, zoom: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        if size < 1 or not 0 < zoom[0] <= zoom[1]:
            raise ValueError(f"needs size >= 1 and 0 < low <= high zoom, got {size} and {zoom}")
        self.size, self.zoom = size, zoom

    def forward(self, image: Tensor, target: dict[str, Any]) -> Sample:
        """Return the resized image [3, h, w] and its target with new `boxes` and `labels`."""
        window = draw_window(self.size, self.zoom, *target["boxes"].canvas_size)
        new = list(window.resized)
        image = v2.functional.resize(image, new, antialias=True)
        boxes = v2.functional.resize(target["boxes"], new)
        if not window.whole:
            image = v2.functional.crop(image, window.top, window.left, window.height, window.width)
            corner = torch.tensor([window.left, window.top])
            sides = torch.tensor([window.width, window.height])
            shifted, kept = cut_boxes(boxes.as_subclass(Tensor), corner, sides)
            boxes = as_boxes(shifted[kept], window.height, window.width)
            target = {**target, "labels": target["labels"][kept]}
        return image, {**target, "boxes": boxes}


def as_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return float32 [k, 4] corner boxes as a tv_tensor on a canvas of the given size."""
    result: Tensor = tv_tensors.BoundingBoxes(
        boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width), dtype=torch.float32
    )
    return result


def eval_transforms(size: int) -> nn.Module:
    """Return the transforms of evaluation: the longer side becomes `size`.

    Args:
        size: in pixels.

    Returns:
        A module from (image uint8 [3, H, W], {"boxes": BoundingBoxes [k, 4], "labels": int64 [k]})
        to the same at the new size. Boxes that become less than one pixel wide or high are dropped.
        The canvas of the boxes has to be the original image's size, even if the image was decoded
        smaller.

    Examples:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from scalewise.data import eval_transforms
        >>> boxes = tv_tensors.BoundingBoxes(
        ...     [[0.0, 0.0, 8.0, 8.0]], format="XYXY", canvas_size=(32, 16)
        ... )
        >>> image = torch.zeros(3, 32, 16, dtype=torch.uint8)
        >>> target = {"boxes": boxes, "labels": torch.tensor([0])}
        >>> image, target = eval_transforms(64)(image, target)
        >>> image.shape, target["boxes"].tolist()
        (torch.Size([3, 64, 32]), [[0.0, 0.0, 16.0, 16.0]])
    """
    return _compose(FitLongerSide(size))


def train_transforms(
    size: int,
    flip: float = 0.5,
    color_jitter: float = 0.2,
    scale_jitter: tuple[float, float] = (0.75, 1.25),
) -> nn.Module:
    """Return the transforms of training.

    Args:
        size: length of the longer side at zoom 1, and the largest side at any zoom, in pixels.
        flip: probability of mirroring left to right.
        color_jitter: brightness, contrast and saturation vary by up to this share; 0 turns it off.
        scale_jitter: lowest and highest zoom. The longer side becomes `size` times a zoom drawn
            from this range; larger images are cropped to `size`. (1, 1) turns it off.

    Returns:
        A module like that of `eval_transforms`. It draws from torch's global CPU generator.

    Examples:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from scalewise.data import train_transforms
        >>> boxes = tv_tensors.BoundingBoxes(
        ...     [[0.0, 0.0, 8.0, 8.0]], format="XYXY", canvas_size=(32, 32)
        ... )
        >>> mirrored = train_transforms(32, flip=1.0, color_jitter=0.0, scale_jitter=(1.0, 1.0))
        >>> image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        >>> mirrored(image, {"boxes": boxes, "labels": torch.tensor([0])})[1]["boxes"].tolist()
        [[24.0, 0.0, 32.0, 8.0]]
    """
    steps: list[nn.Module] = [
        FitLongerSide(size, scale_jitter),
        v2.RandomHorizontalFlip(flip),
    ]
    if color_jitter:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    return _compose(*steps)


def _compose(*steps: nn.Module) -> nn.Module:
    result: nn.Module = v2.Compose(
        [*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=LEAST_SIDE)]
    )
    return result
