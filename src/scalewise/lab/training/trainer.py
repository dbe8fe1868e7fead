"""Lightning's trainer for a run, and what can be told from it before anything is written."""

from __future__ import annotations

import itertools
import logging
import os
import random
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from scalewise.errors import UsageError, UserError
from scalewise.files import system_error
from scalewise.lab.data.faults import BadData
from scalewise.lab.data.split import Split
from scalewise.lab.training import runs
from scalewise.lab.training.config import TrainConfig

_STRIDE = 32  # of the coarsest map with BatchNorm


def make_trainer(config: TrainConfig, **more: Any) -> L.Trainer:
    """The trainer that the options describe.

    Args:
        config: All options.
        more: Arguments of Lightning's trainer that are no options.

    Raises:
        UsageError: devices, precision or strategy that this machine does not have.
    """
    _quieten()
    try:
        trainer = L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=config.strategy,
            precision=config.precision,
            enable_model_summary=False,
            **more,
        )
    except (MisconfigurationException, ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise UsageError(
            f"--accelerator {config.accelerator} --devices {config.devices} --nodes "
            f"{config.nodes} --strategy {config.strategy} --precision {config.precision}: "
            f"{' '.join(str(error).split())}"
        ) from None
    if isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment):
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    return trainer


def free_port() -> int:
    """A port of this machine that stays free until the processes of a training meet there.

    That is seconds later. Lightning asks the system for one, which may give it to another program
    in the meantime; systems give out those from 32768 on, so it is drawn from those below.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise UserError("no port is free for the processes of a training: set MASTER_PORT to one")


def check_process(config: TrainConfig, trainer: L.Trainer) -> None:
    """Refuse several processes that would each train the whole run and write to one folder.

    Raises:
        UsageError: a launcher started several, and the options are for one.
    """
    if trainer.is_global_zero != runs.is_main_process():
        raise UsageError(
            f"a launcher (srun, torchrun, ...) has started several processes, but --devices "
            f"{config.devices} --nodes {config.nodes} --strategy {config.strategy} is a training "
            "in one: start one process, or name as many devices and nodes as there are processes"
        )


def check_graphs(config: TrainConfig, trainer: L.Trainer) -> None:
    """Refuse CUDA graphs where there is no CUDA device, or more than one.

    Raises:
        UsageError: saying which.
    """
    device = trainer.strategy.root_device
    if config.compile == "graphs" and (device.type != "cuda" or trainer.world_size > 1):
        where = f"{trainer.world_size} processes" if device.type == "cuda" else f"the {device.type}"
        raise UsageError(
            f"--compile graphs records the step of one CUDA device, and this training is on {where}"
            ": take --compile true or false"
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
            f"one image ({share} images a device in batches of {config.batch_size}), from which "
            f"BatchNorm cannot take a variance: take --size {_STRIDE + 1} or more, or another "
            "--batch_size"
        )


def check_names(training: Split) -> None:
    """Refuse names of classes that no file and no log can hold.

    Raises:
        BadData: naming the first.
    """
    for name in training.classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BadData(
                f"{training.source}: the class {name!r} holds half a character (a lone surrogate), "
                "which no text file can hold: rename it"
            ) from None


def shared_out(validation: Split, devices: int) -> Split:
    """A split of which every device has equally many images; some are there twice.

    A device without an image would leave the others waiting for it. Scores count an image once.
    """
    count = -(-len(validation.records) // devices) * devices
    records = list(itertools.islice(itertools.cycle(validation.records), count))
    return replace(validation, records=records)


def refusal(stop: BaseException, run: Path) -> str:
    """One line on what the system refused; empty where a training ended for another reason."""
    error = system_error(stop)  # loggers and loader processes raise other errors on top of it
    if isinstance(stop, UserError) or not isinstance(stop, OSError | ValueError) or error is None:
        return ""
    if not run.is_dir():
        return f"{run} is gone, so training was stopped"
    return (
        f"{run}: training was stopped by the system: {error}; what was saved is kept, to go on: "
        f"scalewise train --resume {run}"
    )


def _quieten() -> None:
    """Keep Lightning's advertisements and its notes on settings chosen here off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for note in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*log_every_n_steps.*",
        ".*exists and is not empty.*",  # a resumed run writes to its own folder
        ".*in eval mode at the start of training.*",  # frozen BatchNorm
        ".*dataloader is not resumable.*",  # its sampler is set to the right batch before
    ):
        warnings.filterwarnings("ignore", note)
