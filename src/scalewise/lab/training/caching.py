"""Checks, before anything is decoded, that the training set fits on the device that trains."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import lightning as L
import torch

from scalewise.errors import UserError
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.pixel_cache import decoded_shape
from scalewise.lab.data.split import Split
from scalewise.lab.training.building import training_images
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.ranks import is_main_process

_SHARE = 0.8  # of the free memory that images may take: a training needs the rest
_SYSTEM = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def check_room(config: TrainConfig, training: Split, validation: Split, trainer: L.Trainer) -> None:
    """Print how much memory `--cache device` will take, and refuse it if there is too little.

    Args:
        config: All options; nothing happens with another `cache`.
        training: Its images are kept on each device, resized.
        validation: Its images are kept in memory as decoded, by each process.
        trainer: Knows the device.

    Raises:
        UserError: there is less free memory than that.
    """
    if config.cache != "device":
        return
    device = trainer.strategy.root_device
    cache = DeviceCache(training_images(config, training), device)
    count, _, height, width = cache.shape
    held_out = sum(math.prod(decoded_shape(r, config.size)) for r in validation.records)
    on_host = held_out + (0 if device.type == "cuda" else cache.bytes)
    needs = [("memory", on_host * trainer.num_devices, memory_left())]
    if device.type == "cuda":
        needs.append((str(device), cache.bytes, torch.cuda.mem_get_info(device)[0]))
    for where, needed, free in needs:
        if free is not None and needed > _SHARE * free:
            raise UserError(
                f"--cache device would take {_amount(needed)} of {where}, but {_amount(free)} are "
                f"free, and images may take {_SHARE:.0%} of that: use --cache ram, --cache none or "
                "a smaller --size"
            )
    if is_main_process():
        print(
            f"--cache device: {count} training images of at most {width}x{height} pixels take "
            f"{_amount(cache.bytes)} on {device}, {len(validation.records)} validation images "
            f"{_amount(held_out)} of memory",
            flush=True,
        )
        if config.workers not in ("auto", 0):
            print(
                f"--workers {config.workers} is used for the validation images only: with --cache "
                "device, training batches need no loader processes",
                flush=True,
            )


def memory_left(system: Path = _SYSTEM, container: Path = _CONTAINER) -> int | None:
    """Bytes of memory that this process may still take; None if that is not known.

    Args:
        system: The kernel's file on the memory of the machine.
        container: Folder with the limits of the container, for cgroups version 1 or 2.
    """
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        found.append(1024 * int(system.read_text().partition("MemAvailable:")[2].split()[0]))
    for limit, used, stat, idle in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max" is no limit
            lines = (container / stat).read_text().splitlines()
            free = int((container / limit).read_text()) - int((container / used).read_text())
            # the kernel frees memory that only caches files
            found.append(free + int(dict(line.split() for line in lines)[idle]))
    return max(0, min(found)) if found else None


def _amount(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
