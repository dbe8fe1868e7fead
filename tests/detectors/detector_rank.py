"""One of two data parallel ranks: a process of its own, so it imports little."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detector_batches import random_batch, tiny, total

from scalewise.detectors import Batch


def run_rank(rank: int, folder: str, name: str) -> None:
    """Save losses and gradients of this rank's half of a batch to `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    detector = tiny(name, width=8)
    batch = random_batch(12, 4, 5, 96, 96)
    losses = detector(Batch(*(part[2 * rank : 2 * rank + 2] for part in batch)))
    torch.autograd.backward(total(losses))
    results = {term: loss.detach() for term, loss in losses.items()}
    results |= {n: p.grad for n, p in detector.named_parameters() if p.grad is not None}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
