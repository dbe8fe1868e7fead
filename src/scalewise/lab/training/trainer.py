"""Lightning's trainer for a run."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.ranks import free_port


def make_trainer(config: TrainConfig, **more: Any) -> L.Trainer:
    """The trainer that the options describe.

    Args:
        config: All options.
        more: Arguments of Lightning's trainer that are not options.

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
            benchmark=not config.deterministic,  # all batches have one shape
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


def _quieten() -> None:
    """Hide Lightning's advertisements, and its notes on settings that are chosen here."""
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
