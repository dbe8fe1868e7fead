"""Measures a trained run on a split."""

from __future__ import annotations

from pathlib import Path

import torch

from scalewise.errors import UserError
from scalewise.lab.data.open import open_split
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation import ImageDetections, coco_metrics
from scalewise.lab.evaluation.coco_tables import raw_truth
from scalewise.lab.evaluation.detections import check_detections
from scalewise.lab.evaluation.scores import score
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.inference.detecting import detect_all, unused
from scalewise.lab.inference.trained import TrainedRun
from scalewise.lab.training import runs
from scalewise.lab.training.building import open_splits
from scalewise.lab.training.run_metrics import load_metrics


@torch.inference_mode()
def evaluate(
    run: TrainedRun, data: str | None, split_name: str | None, clip: bool = True
) -> tuple[Path, dict[str, float]]:
    """Measure the average precision of a run on a split, in the precision of its validation.

    Args:
        run: A loaded run.
        data: Data set; the run's own when None.
        split_name: Name of the split; the run's validation split when None.
        clip: Cut boxes that reach beyond their image to it, as in training. False uses the
            annotations of the COCO file unchanged, as pycocotools does.

    Returns:
        The JSON file written into the run folder, and the metrics.

    Raises:
        UserError: the data cannot be read or have other classes; or `clip` is False and the split
            is not from a COCO file.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.lab.inference.scored import evaluate
        >>> from scalewise.lab.inference.trained import load_run
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
    """Return the run's validation split, and the detections of its checkpoint on it.

    The run folder holds the detections of the last validation. For a checkpoint of another epoch
    the detector runs again.

    Raises:
        UserError: the run folder holds no detections, or the data have changed.
    """
    path = run.folder / "detections.parquet"
    if not path.is_file():
        raise UserError(
            f"{run.folder} has no validation detections ({path.name} is missing): "
            "give a number instead of best-f1"
        )
    split = open_splits(run.config)[1]
    if list(split.classes) != run.classes:
        raise UserError(
            f"{run.config.data} has the classes {list(split.classes)}, but {run.folder} was "
            f"trained on {run.classes}"
        )
    last = load_metrics(run.folder).get("last") or {}
    if run.epoch is None or last.get("epoch") != run.epoch:
        with torch.inference_mode():
            return split, list(detect_all(run, split))
    found = read_detections(path)
    try:
        check_detections(split, found)
    except ValueError as error:
        raise UserError(f"{path} does not fit {split.name} as it is now: {error}") from None
    return split, found
