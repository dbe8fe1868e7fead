"""Adding up statistics over the ranks of a data-parallel run."""

from __future__ import annotations

from torch import Tensor, distributed

from scalewise.weighting.moments import merge


class Ranks:
    """Holds a process group through copies; a pickle drops it for the default group.

    A process group itself can be neither copied nor pickled, but models are copied (EMA) and saved.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, object]) -> Ranks:
        return self

    def __reduce__(self) -> tuple[type[Ranks], tuple[()]]:
        return Ranks, ()


def world_size(ranks: Ranks) -> int:
    """How many ranks take part; 1 outside data parallelism."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(ranks.group)


def merge_ranks(partial: Tensor, ranks: Ranks) -> Tensor:
    """Merge every rank's partial, by a single all-reduce.

    Filling one row of zeros and summing is exact, needs no list of outputs, and works alike on
    every backend.

    Args:
        partial: float32 [8, n] of this rank.
        ranks: those that take part.

    Returns:
        float32 [8, n], the same on every rank; the argument itself outside data parallelism.
    """
    world = world_size(ranks)
    if world == 1:
        return partial
    table = partial.new_zeros((world, *partial.shape))
    table[distributed.get_rank(ranks.group)].copy_(partial)
    distributed.all_reduce(table, group=ranks.group)
    return merge(table)
