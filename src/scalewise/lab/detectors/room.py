"""How many numbers to work on at once; it depends on the free memory."""

from __future__ import annotations

import torch

USUAL = 2**24  # so many numbers are worked on at once without a look at the free memory
LEAST = 2**20
BYTES = 20  # that one number takes, temporary values included
SHARE = 0.25  # of the free memory


def at_once(device: torch.device, needed: int) -> int:
    """How many of `needed` numbers to hold at a time: 2**24, or what a GPU has memory for.

    The memory is looked at only if more than 2**24 are needed, and never while a CUDA graph is
    captured. The caller's result must not depend on the answer.

    Args:
        device: where the numbers lie.
        needed: how many numbers (float32) there are.

    Returns:
        At least 2**20.
    """
    if needed <= USUAL or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return USUAL
    return max(LEAST, int(SHARE * free_bytes(device)) // BYTES)


def free_bytes(device: torch.device) -> int:
    """The free bytes of a GPU, with the memory that torch holds there but does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
