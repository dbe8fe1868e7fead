"""Loads a trained run, so that it can detect objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from scalewise.errors import UsageError
from scalewise.lab.detectors.batch import Batch, Detections
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.training import runs
from scalewise.lab.training.arithmetic import run_arithmetic
from scalewise.lab.training.building import build_detector, loader_workers
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.reading import check_origin, read_checkpoint
from scalewise.lab.training.run_options import load_config


class Detecting(Protocol):
    """A detector that can be used: a trained run, or a file that was exported from one."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""

    @property
    def size(self) -> int:
        """Pixels that the longer side of an image is resized to."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in pixels."""

    @property
    def batch_size(self) -> int:
        """Images at once."""

    @property
    def workers(self) -> int:
        """Processes that load images."""

    def detect(self, batch: Batch) -> Detections:
        """The best detections of each image."""


@dataclass
class TrainedRun:
    """A trained run, loaded from its folder.

    Attributes:
        folder: The run folder.
        config: Its options.
        classes: Names of the classes, in the order of the labels.
        detector: The detector, in evaluation mode, with the weights of the checkpoint.
        device: Where the detector is.
        epoch: Number of the epoch of the checkpoint, from 1; None if the checkpoint does not say.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.inference.trained import load_run
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> run.detector.training
        False
    """

    folder: Path
    config: TrainConfig
    classes: list[str]
    detector: DenseDetector
    device: torch.device
    epoch: int | None = None

    @property
    def size(self) -> int:
        """Pixels that the longer side of an image is resized to."""
        return self.config.size

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in pixels."""
        return self.detector.strides

    @property
    def batch_size(self) -> int:
        """Images at once."""
        return self.config.batch_size

    @property
    def workers(self) -> int:
        """Processes that load images."""
        return loader_workers(self.config)

    def detect(self, batch: Batch) -> Detections:
        """The best detections of each image, in the precision of the run's validation."""
        on_device = batch._replace(
            images=batch.images.to(self.device), sizes=batch.sizes.to(self.device)
        )
        with run_arithmetic(self.config.precision, self.device):
            return self.detector.detect(on_device)


def load_run(folder: Path, kind: str = "best", device: str = "auto") -> TrainedRun:
    """Load a run for evaluation or prediction.

    Args:
        folder: The run folder.
        kind: Which checkpoint, "best" or "last".
        device: A torch device, or "auto": "cuda" if there is one, else "cpu".

    Raises:
        UserError: the folder is not a run folder, or the checkpoint does not fit it.
        UsageError: there is no such device.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.inference.trained import load_run
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> run.classes
        ['disc', 'square', 'triangle', 'ring', 'cross']
    """
    config = load_config(folder)
    classes = runs.run_classes(folder)
    path = runs.checkpoint(folder, kind)
    found = read_checkpoint(path)
    check_origin(found, path, config, classes, resuming=False)
    detector = build_detector(config, len(classes), None)
    prefix = "detector."
    state = {
        k[len(prefix) :]: v for k, v in found["state_dict"].items() if str(k).startswith(prefix)
    }
    try:
        detector.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise runs.RunError(f"{path} does not fit {folder / 'config.yaml'}: {reason}") from None
    where = _device(device)
    detector.to(where).eval()
    if where.type == "cuda":
        detector.to(memory_format=torch.channels_last)  # as in training
    epoch = found.get("epoch")
    return TrainedRun(
        folder, config, classes, detector, where, epoch + 1 if isinstance(epoch, int) else None
    )


def _device(name: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        UsageError: there is no such device.
    """
    try:
        device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        )
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
