"""Data sets: reading, checking, augmenting and batching."""

from __future__ import annotations

from scalewise.data.dataset import DetectionDataset, Item, Request
from scalewise.data.demo import DemoOptions, make_demo
from scalewise.data.faults import BadData
from scalewise.data.images import load_image
from scalewise.data.loader import Collate, EpochSampler, make_loader
from scalewise.data.open import open_split
from scalewise.data.split import ImageRecord, Split
from scalewise.data.transforms import eval_transforms, train_transforms

__all__ = [
    "BadData",
    "Collate",
    "DemoOptions",
    "DetectionDataset",
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
