"""How many numbers to work on at once, by the memory that is free."""

from __future__ import annotations

import torch

USUAL = 2**24  # numbers that are worked on at once without a look at what is free
LEAST = 2**20
BYTES = 20  # that a number takes with the temporaries beside it
SHARE = 0.25  # of the free memory


def at_once(device: torch.device, needed: int) -> int:
    """How many of `needed` numbers to hold at a time: 2**24, or what a GPU has memory for.

    The memory is looked at only where more than 2**24 are needed, and never while a CUDA graph is
    captured. What is computed must not depend on the answer.

    Args:
        device: where they lie.
        needed: numbers (float32) in all.

    Returns:
        At least 2**20.
    """
    if needed <= USUAL or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return USUAL
    return max(LEAST, int(SHARE * free_bytes(device)) // BYTES)


def free_bytes(device: torch.device) -> int:
    """What a GPU has free, with what torch holds there and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
