"""A run's detector and data from its options; no Lightning, and for data no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalewise.errors import UserError
from scalewise.lab.data.hold_out import hold_out
from scalewise.lab.data.open import open_split
from scalewise.lab.data.split import Split, require_same_classes
from scalewise.lab.training.config import TrainConfig
from scalewise.threads import usable_cores

if TYPE_CHECKING:
    from scalewise.lab.data.dataset import DetectionDataset
    from scalewise.lab.detectors.detector import DenseDetector
    from scalewise.weighting import Grouping


def build_detector(
    config: TrainConfig, classes: int, weights: str | None, grouping: Grouping | None = None
) -> DenseDetector:
    """The detector that the options describe.

    Raises:
        UserError: for a backbone or weights that cannot be had.
    """
    from scalewise.lab.detectors.atss import ATSS
    from scalewise.lab.detectors.fcos import FCOS
    from scalewise.lab.detectors.retinanet import RetinaNet

    kinds: dict[str, type[DenseDetector]] = {"atss": ATSS, "fcos": FCOS, "retinanet": RetinaNet}
    pretrained = config.weights_backbone is not None  # also when a checkpoint will replace them
    try:
        return kinds[config.detector](
            backbone=config.backbone,
            num_classes=classes,
            weights=weights,
            freeze_bn=pretrained,
            freeze_stem=pretrained,
            width=config.width,
            depth=config.depth,
            anchor_scale=config.anchor_scale,
            grouping=grouping,
            object_power=config.object_power,
        )
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"detector {config.detector} on {config.backbone}: {error}") from None


def loader_workers(config: TrainConfig, trainings: int = 1) -> int:
    """Number of loader processes: `--workers`, or half of the cores that each training has.

    Args:
        config: All options.
        trainings: Training processes on this machine, each with its own loaders.
    """
    return auto_workers(trainings) if config.workers == "auto" else config.workers


def auto_workers(sharing: int = 1) -> int:
    """Number of loader processes, 1 to 8: half of the cores, divided by `sharing` processes."""
    return max(1, min(8, usable_cores() // (2 * sharing)))


def open_splits(config: TrainConfig) -> tuple[Split, Split]:
    """What a run trains on and what it is validated on.

    Raises:
        UserError: for data that cannot be read, or splits of different classes.
    """
    training = open_split(
        config.data, config.train_split, skip_bad=config.skip_bad, strict=config.strict
    )
    if config.holdout:
        return hold_out(training, config.holdout)
    validation = open_split(
        config.data, config.val_split, skip_bad=config.skip_bad, strict=config.strict
    )
    require_same_classes(training, validation)
    return training, validation


def training_images(config: TrainConfig, training: Split) -> DetectionDataset:
    """The training split with the augmentation that the options describe."""
    from scalewise.lab.data.dataset import DetectionDataset

    return DetectionDataset(
        training,
        config.size,
        augment=True,
        cache="ram" if config.cache == "ram" else "none",
        flip=config.flip,
        color_jitter=config.color_jitter,
        scale_jitter=(1 - config.scale_jitter, 1 + config.scale_jitter),
    )
