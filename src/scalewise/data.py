"""Data sets for loops of your own: reading, checking, augmenting and batching.

Names load on first use: reading a data set needs no torch, and wrong ones are told at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise.lab.data.dataset import DetectionDataset, Item, Request
    from scalewise.lab.data.demo_options import DemoOptions
    from scalewise.lab.data.demo_set import make_demo
    from scalewise.lab.data.device_cache import DeviceCache
    from scalewise.lab.data.faults import BadData
    from scalewise.lab.data.image_record import ImageRecord
    from scalewise.lab.data.images import load_image
    from scalewise.lab.data.loader import Collate, make_loader
    from scalewise.lab.data.open import open_split
    from scalewise.lab.data.sampler import EpochSampler
    from scalewise.lab.data.split import Split
    from scalewise.lab.data.transforms import eval_transforms, train_transforms

__all__ = [
    "BadData",
    "Collate",
    "DemoOptions",
    "DetectionDataset",
    "DeviceCache",
    "EpochSampler",
    "ImageRecord",
    "Item",
    "Request",
    "Split",
    "eval_transforms",
    "load_image",
    "make_demo",
    "make_loader",
    "open_split",
    "train_transforms",
]

_MODULES = {
    "BadData": "faults",
    "Collate": "loader",
    "DemoOptions": "demo_set",
    "DetectionDataset": "dataset",
    "DeviceCache": "device_cache",
    "EpochSampler": "loader",
    "ImageRecord": "split",
    "Item": "dataset",
    "Request": "dataset",
    "Split": "split",
    "eval_transforms": "transforms",
    "load_image": "images",
    "make_demo": "demo_set",
    "make_loader": "loader",
    "open_split": "open",
    "train_transforms": "transforms",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'scalewise.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"scalewise.lab.data.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
