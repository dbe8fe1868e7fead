"""Tiny trainings in Lightning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import scalewise as sw

LEVELS, STEPS = 3, 5  # STEPS batches an epoch
ROWS = torch.rand(2 * STEPS, LEVELS, generator=torch.Generator().manual_seed(4)) + 0.5


def balancer(scheme: Any = "rlo", **options: Any) -> sw.LossBalancer:
    return sw.LossBalancer(LEVELS, scheme, seed=2, **{"interval": 3, **options})


if TYPE_CHECKING:
    Base = L.LightningModule
else:
    Base = object


class Steps(Base):
    """One parameter and loss per level; the balancer is a submodule, or hidden in a list."""

    def __init__(self, own: sw.LossBalancer, inside: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(LEVELS))
        self.kept = [own]
        if inside:
            self.balancer = own
        self.seen: list[Tensor] = []

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        levels = (self.scale * rows).square().mean(0)
        self.seen.append(self.kept[0].weights.clone())
        total = self.kept[0](levels)
        self.log("total", total)
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], lr=0.1, momentum=0.9)


class Module(Steps, L.LightningModule):
    """`Steps` for the package `lightning`."""


def loader() -> DataLoader[Any]:
    rows: Any = ROWS
    return DataLoader(rows, batch_size=2)


def trainer(folder: Path, callbacks: list[Any], package: Any = L, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return package.Trainer(callbacks=callbacks, **{**settings, **options})


def fit(
    folder: Path, module: Any, callback: Any, resume: Path | None = None, **options: Any
) -> Any:
    run = trainer(folder, [callback] if callback else [], **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(num_workers|isinstance|logging interval)")
        run.fit(module, loader(), ckpt_path=resume)
    return run
