"""The arithmetic that a run is trained, validated and evaluated in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

MATMUL = "high"  # TF32 where a GPU has it


@contextlib.contextmanager
def run_arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute as the validation of a run does that was trained with `--precision`.

    Args:
        precision: As in `RunOptions`.
        device: Where; on a CPU float16 is replaced by bfloat16, as in training.
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
