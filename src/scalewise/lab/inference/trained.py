"""A trained run put to work: detections of a split, and their evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from scalewise.errors import UsageError, UserError
from scalewise.lab.data.dataset import DetectionDataset
from scalewise.lab.data.loader import make_loader
from scalewise.lab.data.open import open_split
from scalewise.lab.data.split import Split
from scalewise.lab.detectors import Batch, DenseDetector, Detections
from scalewise.lab.evaluation import ImageDetections, coco_metrics, to_original
from scalewise.lab.evaluation.coco_ap import raw_truth
from scalewise.lab.evaluation.detections import check_detections
from scalewise.lab.evaluation.scores import score
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.training import runs
from scalewise.lab.training.arithmetic import run_arithmetic
from scalewise.lab.training.building import build_detector, loader_workers, open_splits
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.reading import check_origin, read_checkpoint


class Detecting(Protocol):
    """What finds objects: a run, or a file that was exported from one."""

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
    """What a run folder holds that can be used again.

    Attributes:
        folder: The run folder.
        config: Its options.
        classes: Names of the classes, in the order of the labels.
        detector: In evaluation mode, with the weights of the checkpoint.
        device: Where the detector is.
        epoch: The epoch that the checkpoint was made in, from 1; None where it does not say.

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
        """The best detections of each image, in the arithmetic of the run's validation."""
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
        device: "auto", or a torch device.

    Raises:
        UserError: when the folder is no run or the checkpoint does not fit.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.inference.trained import load_run
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> run.classes
        ['disc', 'square', 'triangle', 'ring', 'cross']
    """
    config = runs.load_config(folder)
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
    """What `--device` names.

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


@torch.inference_mode()
def evaluate(
    run: TrainedRun, data: str | None, split_name: str | None, clip: bool = True
) -> tuple[Path, dict[str, float]]:
    """Average precision of a run on a split, in the arithmetic in which it was validated.

    Args:
        run: A loaded run.
        data: Data set; the run's own when None.
        split_name: Name of the split; the run's validation split when None.
        clip: Cut boxes that reach over their image's edge to it, as in training. Without, the COCO
            file counts as it stands, with all that is in it, which is pycocotools' reading.

    Returns:
        The JSON file written into the run folder, and the metrics.

    Raises:
        UserError: when the data cannot be read or have other classes, or are no COCO file that
            could be read without cutting.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.inference.trained import evaluate, load_run
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> path, metrics = evaluate(run, None, "test")
        >>> path.name, 0 <= metrics["AP"] <= 1
        ('evaluation-test.json', True)
    """
    config = run.config
    if data is None and split_name is None:
        split = open_splits(config)[1]
    else:
        split = open_split(
            data or config.data,
            split_name or config.val_split,
            skip_bad=config.skip_bad,
            strict=config.strict,
        )
    if list(split.classes) != run.classes:
        raise UserError(
            f"{data or config.data} has the classes {list(split.classes)}, but {run.folder} was "
            f"trained on {run.classes}"
        )
    found = list(detect_all(run, split))
    metrics = score(split, found) if clip else coco_metrics(split, found, raw_truth(split))
    path = unused(run.folder / f"evaluation-{split.name}.json")
    runs.write_json(
        path,
        {
            "data": data or config.data,
            "split": split.name,
            "epoch": run.epoch,
            "images": len(split.records),
            "boxes_over_the_edge": split.clipped,
            "cut_to_the_image": clip,
            "skipped": split.skipped,
            "metrics": metrics,
        },
    )
    return path, metrics


def validated(run: TrainedRun) -> tuple[Split, list[ImageDetections]]:
    """The run's validation split and what its checkpoint finds there.

    The detections that the run kept are of its last validation; for a checkpoint of another epoch
    they are found anew.

    Raises:
        UserError: the run kept none, or the data have changed.
    """
    path = run.folder / "detections.parquet"
    if not path.is_file():
        raise UserError(
            f"{run.folder} has no validation detections ({path.name} is missing): "
            "name a score instead of best-f1"
        )
    split = open_splits(run.config)[1]
    if list(split.classes) != run.classes:
        raise UserError(
            f"{run.config.data} has the classes {list(split.classes)}, but {run.folder} was "
            f"trained on {run.classes}"
        )
    last = runs.load_metrics(run.folder).get("last") or {}
    if run.epoch is None or last.get("epoch") != run.epoch:
        with torch.inference_mode():
            return split, list(detect_all(run, split))
    found = read_detections(path)
    try:
        check_detections(split, found)
    except ValueError as error:
        raise UserError(f"{path} is not of {split.name} as it is now: {error}") from None
    return split, found


def detect_all(run: Detecting, split: Split) -> Iterator[ImageDetections]:
    """Detections of every image of a split, in its order."""
    dataset = DetectionDataset(split, run.size, augment=False)
    for batch in make_loader(dataset, run.batch_size, shuffle=False, workers=run.workers):
        yield from to_original(run.detect(batch), batch)


def unused(path: Path) -> Path:
    """Return the path itself, or with "-2", "-3", ... where it exists."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
