"""The moving average of the weights that is evaluated and saved (`--ema`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn


class MovingAverage(WeightAveraging):
    """Moving average of the parameters whose decay grows to `decay` while training runs.

    The decay of update k is min(decay, (1 + k) / (10 + k)), so the first steps are soon forgotten;
    a constant decay would keep the initial weights in the average of a short run. The first update
    copies the parameters. Buffers are always copied: counters of the balancer have no average.

    The average lies on the device that trains. No update reads a value from the device or waits for
    it.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self._decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the model to where it will train: Lightning moves the model itself only later."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.to(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Update once per optimizer step."""
        if trainer.global_step > self._latest_update_step:
            assert self._average_model is not None
            update(
                self._average_model.module,
                pl_module,
                decay_at(self._latest_update_step, self._decay),
            )
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: the steps have done it."""


def decay_at(k: int, limit: float) -> float:
    """The decay of update k = 0, 1, ...; 0 for the first."""
    return min(limit, (1 + k) / (10 + k)) if k else 0.0


@torch.no_grad()
def update(averaged: nn.Module, current: nn.Module, decay: float) -> None:
    """Move every parameter towards the current one by 1 - `decay`, and copy every buffer.

    It takes a few kernel launches for the whole model, however many tensors it has.

    Args:
        averaged: a copy of `current`, on the same device.
        current: the model in training.
        decay: 0 to 1.
    """
    for own, theirs in _by_dtype(averaged.parameters(), current.parameters()):
        torch._foreach_lerp_(own, theirs, 1 - decay)
    for own, theirs in _by_dtype(averaged.buffers(), current.buffers()):
        torch._foreach_copy_(own, theirs)


def _by_dtype(
    own: Iterable[Tensor], theirs: Iterable[Tensor]
) -> Iterable[tuple[list[Tensor], list[Tensor]]]:
    """Pairs of lists, one pair per dtype: with mixed dtypes the fused operators become loops."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for one, other in zip(own, theirs, strict=True):
        pair = groups.setdefault(one.dtype, ([], []))
        pair[0].append(one)
        pair[1].append(other)
    return groups.values()
