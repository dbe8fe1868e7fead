"""A trained run put to work: detections of a split, and their evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from scalewise.data import DetectionDataset, make_loader, open_split
from scalewise.data.split import Split
from scalewise.detectors import DenseDetector
from scalewise.errors import UsageError, UserError
from scalewise.evaluation import ImageDetections, coco_metrics, to_original
from scalewise.evaluation.coco import raw_truth
from scalewise.training import runs
from scalewise.training.arithmetic import run_arithmetic
from scalewise.training.checkpoints import check_origin, read_checkpoint
from scalewise.training.config import TrainConfig
from scalewise.training.fit import build_detector, loader_workers, open_splits
from scalewise.training.scoring import score


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
        >>> from scalewise.training.inference import load_run
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
        >>> from scalewise.training.inference import load_run
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
        >>> from scalewise.training.inference import evaluate, load_run
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


def detect_all(run: TrainedRun, split: Split) -> Iterator[ImageDetections]:
    """Detections of every image of a split, in its order."""
    dataset = DetectionDataset(split, run.config.size, augment=False)
    loader = make_loader(
        dataset, run.config.batch_size, shuffle=False, workers=loader_workers(run.config)
    )
    for batch in loader:
        on_device = batch._replace(
            images=batch.images.to(run.device), sizes=batch.sizes.to(run.device)
        )
        with run_arithmetic(run.config.precision, run.device):
            found = run.detector(on_device)
        yield from to_original(found, batch)


def unused(path: Path) -> Path:
    """Return the path itself, or with "-2", "-3", ... where it exists."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
