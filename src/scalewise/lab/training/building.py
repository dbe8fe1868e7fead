"""A run's detector and data from its options; no Lightning, and for data no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalewise.errors import UserError
from scalewise.lab.data.open import open_split
from scalewise.lab.data.split import Split, hold_out, require_same_classes
from scalewise.lab.training.config import TrainConfig
from scalewise.threads import usable_cores

if TYPE_CHECKING:
    from scalewise.lab.data.dataset import DetectionDataset
    from scalewise.lab.detectors import DenseDetector
    from scalewise.weighting import Grouping


def build_detector(
    config: TrainConfig, classes: int, weights: str | None, grouping: Grouping | None = None
) -> DenseDetector:
    """The detector that the options describe.

    Raises:
        UserError: for a backbone or weights that cannot be had.
    """
    from scalewise.lab import detectors

    make = getattr(detectors, config.detector)
    pretrained = config.weights_backbone is not None  # also when a checkpoint will replace them
    try:
        detector: DenseDetector = make(
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
    return detector


def loader_workers(config: TrainConfig) -> int:
    """Loader processes: as asked, or half the cores."""
    return auto_workers() if config.workers == "auto" else config.workers


def auto_workers() -> int:
    """Loader processes: half the cores, at most 8."""
    return max(1, min(8, usable_cores() // 2))


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
