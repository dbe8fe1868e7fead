"""Refuses options that cannot work, before anything is written."""

from __future__ import annotations

from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig

_POSITIVE = ("size", "batch_size", "width", "depth", "anchor_scale", "epochs",
             "val_every", "lr", "accumulate", "nodes", "log_every")  # fmt: skip
_NOT_NEGATIVE = ("color_jitter", "backbone_lr", "weight_decay", "warmup", "clip_norm", "patience",
                 "checkpoint_every", "seed", "gradient_every")  # fmt: skip
_BELOW_ONE = ("scale_jitter", "momentum", "ema", "holdout")


def check(config: TrainConfig) -> None:
    """Refuse values that cannot work.

    Raises:
        UsageError: the message names the option, its value and what is allowed.
    """
    if not config.data:
        raise UsageError("--data is missing: name a VOC folder, a COCO folder or JSON, or 'demo'")
    for name in _POSITIVE:
        if not getattr(config, name) > 0:
            raise UsageError(f"--{name} must be above 0, got {getattr(config, name)}")
    for name in _NOT_NEGATIVE:
        if not getattr(config, name) >= 0:  # also NaN
            raise UsageError(f"--{name} must not be negative, got {getattr(config, name)}")
    for name in _BELOW_ONE:
        if not 0 <= getattr(config, name) < 1:
            raise UsageError(
                f"--{name} must be at least 0 and below 1, got {getattr(config, name)}"
            )
    if config.interval != "auto" and config.interval < 1:
        raise UsageError(f"--interval must be above 0, or auto, got {config.interval}")
    if not 0 <= config.object_power <= 1:
        raise UsageError(f"--object_power must lie in 0..1, got {config.object_power}")
    if not 0 <= config.least_weight <= 1 <= config.largest_weight:
        raise UsageError(
            f"--least_weight must lie in 0..1 and --largest_weight must be at least 1, got "
            f"{config.least_weight} and {config.largest_weight}"
        )
    if not 0 <= config.flip <= 1:
        raise UsageError(f"--flip must be a probability, 0 to 1, got {config.flip}")
    if isinstance(config.workers, int) and config.workers < 0:
        raise UsageError(f"--workers must not be negative, got {config.workers}")
    if config.name is not None and ("/" in config.name or config.name in ("", ".", "..")):
        raise UsageError(f"--name must be the name of a folder inside --out, got {config.name!r}")
    _check_together(config)


def _check_together(config: TrainConfig) -> None:
    """Refuse values that do not go together."""
    if config.skip_bad and config.strict:
        raise UsageError("--skip_bad and --strict exclude each other: leave one out")
    if config.epochs % config.val_every:
        raise UsageError(
            f"--val_every {config.val_every} does not divide --epochs {config.epochs}, so the last "
            "epoch would not be validated"
        )
    if config.mosaic and config.batch_size < 4:
        raise UsageError(
            f"--mosaic puts four images of a batch together, but --batch_size is "
            f"{config.batch_size}: set it to 4 or more, or leave out --mosaic"
        )
    if config.gradient_every and config.compile:
        raise UsageError(
            "--gradient_every runs the backward pass of a step several times, which a compiled "
            "detector cannot do: leave out --compile, or set --gradient_every 0"
        )
    if config.gradient_every and config.precision == "16-mixed":
        raise UsageError(
            "--gradient_every measures gradients without loss scaling, and in float16 small ones "
            "become 0: use --precision bf16-mixed or 32-true, or --gradient_every 0"
        )
    if config.compile == "graphs" and config.accumulate > 1:
        raise UsageError(
            f"--compile graphs keeps gradients where the next step overwrites them, so they cannot "
            f"be added up over --accumulate {config.accumulate}: use --compile true, or a larger "
            "--batch_size"
        )
