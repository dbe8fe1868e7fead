"""The work of one of two data parallel ranks; few imports, so that its process starts fast."""

from __future__ import annotations

import torch
from detector_batches import random_batch, tiny, total
from torch import Tensor

from scalewise.detectors import Batch


def half(rank: int, name: str) -> dict[str, Tensor]:
    """Losses and gradients of this rank's half of a batch."""
    detector = tiny(name, width=8)
    batch = random_batch(12, 4, 5, 96, 96)
    losses = detector(Batch(*(part[2 * rank : 2 * rank + 2] for part in batch)))
    torch.autograd.backward(total(losses))
    results = {term: loss.detach() for term, loss in losses.items()}
    return results | {n: p.grad for n, p in detector.named_parameters() if p.grad is not None}
