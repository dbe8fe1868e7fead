"""The optimizer of a run and its learning rate over the steps."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from scalewise.lab.training.config import TrainConfig


def make_optimizer(
    module: nn.Module, backbone: nn.Module, config: TrainConfig, total: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """SGD or AdamW, with a warm-up and then the schedule, both counted in optimizer steps.

    Args:
        module: What is trained.
        backbone: The part of it that has its own learning rate.
        config: Options of the optimizer.
        total: Optimizer steps of the whole run.
    """
    groups = parameter_groups(module, backbone, config)
    # Fused updates unscale float16's gradients themselves, so they could not be clipped before.
    fused = config.precision != "16-mixed"
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    if total <= config.warmup:
        warnings.warn(
            f"--warmup {config.warmup} is not shorter than the {total} steps of the whole "
            f"training, which ends before the learning rate has reached --lr {config.lr:g}: "
            f"use --warmup {total // 10}, for example",
            stacklevel=1,  # Lightning, which called this, would name its own file
        )
    scheduler = LambdaLR(optimizer, lambda step: rate(step, total, config.warmup, config.schedule))
    return optimizer, scheduler


def parameter_groups(
    module: nn.Module, backbone: nn.Module, config: TrainConfig
) -> list[dict[str, Any]]:
    """Weight decay for convolutions only; the backbone learns at its own rate.

    Norms, biases and the scales of the levels have none: it would pull them away from good values
    and gain nothing.
    """
    slow = {id(p) for p in backbone.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            lr = config.lr * (config.backbone_lr if id(parameter) in slow else 1.0)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": params, "lr": lr, "weight_decay": decay}
        for (lr, decay), params in groups.items()
    ]


def rate(step: int, total: int, warmup: int, schedule: str) -> float:
    """Factor on the learning rate at an optimizer step.

    Args:
        step: Optimizer steps done.
        total: Optimizer steps of the whole run.
        warmup: Steps of linear warm-up, from 1 / (warmup + 1).
        schedule: "cosine", "step" or "constant".

    Returns:
        The factor, in 0..1. "step" is the published 1x schedule, 8 and 11 of 12 epochs.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "cosine":
        done = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if schedule == "step":
        return 0.1 ** ((step >= total * 8 / 12) + (step >= total * 11 / 12))
    return 1.0
