"""The number formats in which a run is trained, validated and evaluated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

MATMUL = "high"  # TF32 where a GPU has it


@contextlib.contextmanager
def run_arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute as in the validation of a run that was trained with this `--precision`.

    Args:
        precision: As in `RunOptions`.
        device: Where to compute; on a CPU bfloat16 replaces float16, as in training.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MATMUL)
    half = precision == "16-mixed" and device.type != "cpu"
    try:
        with torch.autocast(
            device.type,
            dtype=torch.float16 if half else torch.bfloat16,
            enabled=precision.endswith("-mixed"),
            cache_enabled=False,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
