"""Data sets, settings and logs for Ultralytics trainings."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from ultralytics_models import CLASSES, POINTS, SIDE

Train = Callable[..., Any]
NAMES = ["a", "b", "c, d", "e"][:CLASSES]


def write_images(folder: Path, task: str = "detect") -> str:
    """Write a data set of 10 training images with objects of the first two classes."""
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 10), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name in range(count):
            pixels = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)
            Image.fromarray(pixels.numpy()).save(folder / "images" / split / f"{name}.png")
            boxes = 0.3 + 0.4 * torch.rand(1 + name % 3, 4, generator=draw)
            lines = [f"{name % 2} " + " ".join(map(str, _label(box, task))) for box in boxes]
            (folder / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
    text: dict[str, Any] = {"path": str(folder), "train": "images/train", "val": "images/val"}
    text |= {"names": NAMES, "kpt_shape": [POINTS, 3]}
    (folder / "data.yaml").write_text(yaml.safe_dump(text))
    return str(folder / "data.yaml")


def _label(box: torch.Tensor, task: str) -> list[float]:
    """The numbers after the class in a label line; corners for segments and rotated boxes."""
    x, y, w, h = box.tolist()
    if task == "pose":
        return [x, y, w, h] + [x, y, 2.0] * POINTS
    if task == "detect":
        return [x, y, w, h]
    w, h = w / 3, h / 3
    return [x - w, y - h, x + w, y - h, x + w, y + h, x - w, y + h]


def fast_settings(data: str, folder: Path) -> dict[str, Any]:
    return {
        "data": data,
        "project": str(folder),
        "name": "run",
        "epochs": 2,
        "imgsz": SIDE,
        "batch": 2,
        "nbs": 2,
        "workers": 0,
        "amp": False,
        "plots": False,
        "device": "cpu",
        "verbose": False,
    }


def read_rows(file: Path) -> list[dict[str, float]]:
    with file.open(newline="") as lines:
        return [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(lines)]
