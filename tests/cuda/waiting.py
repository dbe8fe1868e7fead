"""Finds steps that wait for the device: CUDA reports them; on the CPU operators are watched."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from detector_batches import operations


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Fail if anything inside makes the host wait for the device."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with operations() as seen:
            yield
        assert not seen.waits


def count_waits(device: torch.device, work: Callable[[], object]) -> int:
    """How often `work` makes the host wait for the device."""
    if device.type != "cuda":
        with operations() as seen:
            work()
        return len(seen.waits)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
