"""Checks of a training's trainer and data, before anything is written."""

from __future__ import annotations

import lightning as L

from scalewise.errors import UsageError
from scalewise.lab.data.faults import BadData
from scalewise.lab.data.split import Split
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.ranks import is_main_process

_STRIDE = 32  # of the coarsest map with BatchNorm


def check_process(config: TrainConfig, trainer: L.Trainer) -> None:
    """Refuse several processes that would each train the whole run and write to one folder.

    Raises:
        UsageError: a launcher started several processes, but the options are for one.
    """
    if trainer.is_global_zero != is_main_process():
        raise UsageError(
            f"a launcher (srun, torchrun, ...) has started several processes, but --devices "
            f"{config.devices} --nodes {config.nodes} --strategy {config.strategy} trains in one "
            "process: start one, or name as many devices and nodes as there are processes"
        )


def check_graphs(config: TrainConfig, trainer: L.Trainer) -> None:
    """Refuse CUDA graphs where there is no CUDA device, or more than one.

    Raises:
        UsageError: the message says which.
    """
    device = trainer.strategy.root_device
    if config.compile == "graphs" and (device.type != "cuda" or trainer.world_size > 1):
        where = f"{trainer.world_size} processes" if device.type == "cuda" else f"the {device.type}"
        raise UsageError(
            f"--compile graphs records the step of one CUDA device, but this training is on {where}"
            ": use --compile true or false"
        )


def check_batches(config: TrainConfig, training: Split, devices: int) -> None:
    """Refuse a batch from which BatchNorm cannot take a variance.

    Raises:
        UsageError: the coarsest map has one place, and a batch has one image.
    """
    share = -(-len(training.records) // devices)
    last = share % config.batch_size or config.batch_size
    if config.size <= _STRIDE and last == 1 and config.weights_backbone is None:
        raise UsageError(
            f"--size {config.size} leaves one place on the coarsest map, and the last batch has "
            f"one image ({share} images per device in batches of {config.batch_size}): BatchNorm "
            f"cannot take a variance from one value. Use --size {_STRIDE + 1} or more, or another "
            "--batch_size"
        )


def check_names(training: Split) -> None:
    """Refuse names of classes that no file and no log can hold.

    Raises:
        BadData: the message names the first of them.
    """
    for name in training.classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BadData(
                f"{training.source}: the class {name!r} holds half a character (a lone surrogate), "
                "which no text file can hold: rename it"
            ) from None
