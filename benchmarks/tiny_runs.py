"""Options of trainings that take seconds on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalewise.lab.training.config import TrainConfig

TINY: dict[str, Any] = {
    "backbone": "mobilenet_v3_small",
    "width": 16,
    "depth": 1,
    "size": 64,
    "batch_size": 4,
    "workers": 0,
    "accelerator": "cpu",
}


def tiny_run(data: Path, out: Path, /, **changes: Any) -> TrainConfig:
    """A run on 20 images of 64 pixels, 5 steps an epoch.

    Args:
        data: folder for the drawn images, see `DemoOptions.folder`.
        out: parent of the run folder.
        changes: other options.
    """
    words = {"scheme": "rlo", "warmup": 2, "log_every": 2, "progress": "plain"}
    place = {"data": f"demo:images=20,size=64,folder={data}", "out": str(out)}
    return TrainConfig(**TINY | words | place | changes)
