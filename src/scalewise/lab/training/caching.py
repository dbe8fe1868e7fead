"""Room for the training set on the device that trains, looked at before anything is decoded."""

from __future__ import annotations

import contextlib
from pathlib import Path

import lightning as L
import torch

from scalewise.errors import UserError
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.split import Split
from scalewise.lab.training import runs
from scalewise.lab.training.building import training_images
from scalewise.lab.training.config import TrainConfig

_SHARE = 0.8  # of the free memory that images may take: a training needs the rest
_SYSTEM = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def check_room(config: TrainConfig, training: Split, validation: Split, trainer: L.Trainer) -> None:
    """Say what `--cache device` will take, and refuse it where there is no room.

    Args:
        config: All options; nothing is done with another `cache`.
        training: Kept on each device, resized.
        validation: Kept in memory as it is, by each process.
        trainer: Names the device.

    Raises:
        UserError: there is less free memory than that.
    """
    if config.cache != "device":
        return
    device = trainer.strategy.root_device
    cache = DeviceCache(training_images(config, training), device)
    count, _, height, width = cache.shape
    originals = sum(3 * record.height * record.width for record in validation.records)
    on_host = originals + (0 if device.type == "cuda" else cache.bytes)
    needs = [("memory", on_host * trainer.num_devices, memory_left())]
    if device.type == "cuda":
        needs.append((str(device), cache.bytes, torch.cuda.mem_get_info(device)[0]))
    for where, needed, free in needs:
        if free is not None and needed > _SHARE * free:
            raise UserError(
                f"--cache device would take {_amount(needed)} of {where}, where {_amount(free)} "
                f"are free, of which images may take {_SHARE:.0%}: take --cache ram, --cache none "
                "or a smaller --size"
            )
    if runs.is_main_process():
        print(
            f"--cache device: {count} training images of at most {width}x{height} pixels take "
            f"{_amount(cache.bytes)} on {device}, {len(validation.records)} validation images "
            f"{_amount(originals)} of memory",
            flush=True,
        )
        if config.workers not in ("auto", 0):
            print(
                f"--workers {config.workers} loads the validation images only: with --cache device "
                "training batches are made without loader processes",
                flush=True,
            )


def memory_left(system: Path = _SYSTEM, container: Path = _CONTAINER) -> int | None:
    """Bytes of memory that this process may still take; None where that cannot be told.

    Args:
        system: What the kernel says of the machine's memory.
        container: Folder with the limits of the container, of either version of cgroups.
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
            # what files have left in memory gives way to what is needed
            found.append(free + int(dict(line.split() for line in lines)[idle]))
    return max(0, min(found)) if found else None


def _amount(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
