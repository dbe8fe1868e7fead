"""The batches of a run on each of its devices."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L

from scalewise.lab.data.dataset import DetectionDataset
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.loader import make_loader
from scalewise.lab.data.split import Split
from scalewise.lab.training.building import loader_workers, training_images
from scalewise.lab.training.config import TrainConfig


def run_loaders(
    config: TrainConfig,
    training: Split,
    validation: Split,
    trainer: L.Trainer,
) -> tuple[Any, Any]:
    """The batches for training and for validation; every device has the same number of them."""
    load = partial(
        make_loader,
        batch_size=config.batch_size,
        workers=loader_workers(config, trainer.num_devices),
        num_replicas=trainer.world_size,
        rank=trainer.global_rank,
        pin_memory=trainer.strategy.root_device.type == "cuda",
    )
    data = training_images(config, training)
    own = DeviceCache(data, trainer.strategy.root_device) if config.cache == "device" else data
    mosaic_epochs = config.epochs * 9 // 10 if config.mosaic else 0
    batches = load(own, shuffle=True, seed=config.seed, mosaic_epochs=mosaic_epochs)
    held_out = DetectionDataset(
        shared_out(validation, trainer.world_size),
        config.size,
        augment=False,
        cache="none" if config.cache == "none" else "ram",
    )
    held_out.warn_with(data)
    return batches, load(held_out, shuffle=False)


def shared_out(validation: Split, devices: int) -> Split:
    """Repeat some images, so that every device has the same number of images of the split.

    A device without an image would make the others wait for it. Scores count each image once.
    """
    count = -(-len(validation.records) // devices) * devices
    records = list(itertools.islice(itertools.cycle(validation.records), count))
    return replace(validation, records=records)
