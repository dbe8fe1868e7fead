"""Adding up statistics over the ranks of a data-parallel run."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


class Group:
    """Holds a process group through copies; a pickle drops it for the default group.

    A process group itself can be neither copied nor pickled, but models are copied (EMA) and saved.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, object]) -> Group:
        return self

    def __reduce__(self) -> tuple[type[Group], tuple[()]]:
        return Group, ()


def gather(local: Tensor, group: Group) -> Tensor:
    """Every rank's tensor, by a single all-reduce.

    Filling one row of zeros and summing is exact, needs no list of outputs, and unlike all-gather
    works alike on every backend.

    Args:
        local: float32, the same shape on every rank.
        group: the ranks that take part.

    Returns:
        [world, *local.shape]; world is 1 outside data parallelism.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return local.unsqueeze(0)
    world = distributed.get_world_size(group.group)
    if world == 1:
        return local.unsqueeze(0)
    table = torch.zeros((world, *local.shape), dtype=local.dtype, device=local.device)
    table[distributed.get_rank(group.group)].copy_(local)
    distributed.all_reduce(table, group=group.group)
    return table
