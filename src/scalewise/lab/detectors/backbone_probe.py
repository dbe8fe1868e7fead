"""Finds with one image at which strides a backbone returns maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
STEM_STRIDE = 4
PROBE = 128  # side of the image, in pixels, that finds a model's strides


def probe_image() -> Tensor:
    """An image, float32 [1, 3, 128, 128].

    It is not black, because then a missing module might go unnoticed. It is not random, because
    that would take a draw from the random numbers.
    """
    return torch.linspace(-1, 1, 3 * PROBE * PROBE).view(1, 3, PROBE, PROBE)


def probe(name: str, model: nn.Module) -> Any:
    """The output of `model` for one image."""
    try:
        with torch.no_grad():
            return model.eval()(probe_image())
    except (AssertionError, RuntimeError) as error:  # a fixed input size, as in transformers
        raise ValueError(f"backbone {name!r} does not take {PROBE} px images: {error}") from error


def require_strides(name: str, found: dict[int, Any]) -> None:
    """Raise a ValueError if `found` has no map at one of the strides."""
    for stride in (STEM_STRIDE, *STRIDES):
        if stride not in found:
            raise ValueError(f"backbone {name!r} has no feature map at stride {stride}")


def is_map(x: Tensor) -> bool:
    """Whether x is a map [B, C, H, H] rather than channels last or pooled away."""
    return x.dim() == 4 and x.shape[2] == x.shape[3] > 1
