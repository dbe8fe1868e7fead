"""Records the losses of any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed
from torch import nn

from scalewise.errors import UserError
from scalewise.weighting import LossBalancer

if TYPE_CHECKING:
    from scalewise.lab.replay.recording import Recording


class RecordError(UserError):
    """A module cannot be recorded, or a record cannot be written."""


def record(
    model_or_balancer: nn.Module,
    path: str | Path,
    every: int = 1000,
    groups: Sequence[str] | None = None,
) -> Recording:
    """Record what a balancer sees from now on, in a file that `scalewise replay` can read.

    Each eager call in training mode with gradients enabled is one row. A row has the unweighted
    losses, the positives if the balancer gets them (at all calls or at none), the current weights
    and, for schemes with a policy, the action and the probabilities. Rows stay on the device until
    they are written, so that no step waits for the device. Calls inside `torch.compile` or a CUDA
    graph run no Python and cannot be recorded; they are counted, and a warning tells their number
    when the recording is closed. In data-parallel training each process records its own losses; all
    but the first add their rank to the file's name.

    Args:
        model_or_balancer: The balancer, or a module that holds exactly one.
        path: Parquet file to write; if it exists, "-2", "-3", ... is added to its name.
        every: Number of steps between two writes of the file.
        groups: Names of the groups; by default those of the balancer.

    Returns:
        The recording. Close it, or use it in a `with` statement; an open recording is written when
        the interpreter exits.

    Raises:
        RecordError: there is no balancer or more than one, an argument does not fit, or packages
            are missing.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["P3", "P4"], "equal")
        >>> with sw.record(balancer, "losses.parquet") as recording:
        ...     for step in range(5):
        ...         total = balancer(torch.rand(2, requires_grad=True))
        >>> recording.steps
        5
    """
    balancer = _find(model_or_balancer)
    if every < 1:
        raise RecordError(f"record: every must be at least 1 step, got {every}")
    names = list(balancer.names) if groups is None else list(groups)
    if len(names) != balancer.num_groups or len({*names, ""}) != len(names) + 1:
        raise RecordError(
            f"record: groups={names} must be {balancer.num_groups} different names, one for "
            "each group of the balancer"
        )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
        path = Path(path).with_stem(f"{Path(path).stem}-rank{rank}") if rank else path
    try:
        from scalewise.lab.replay.recording import Recording
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("scalewise"):
            raise
        raise RecordError(
            f"record: the package {error.name!r} is missing: pip install 'scalewise[train]'"
        ) from None
    return Recording(balancer, Path(path), every, names)


def _find(module: nn.Module) -> LossBalancer:
    """The one balancer of a module, the module itself included."""
    if not isinstance(module, nn.Module):
        raise RecordError(
            f"record: pass the LossBalancer or a module that holds it, not {type(module).__name__}"
        )
    found = {n: m for n, m in module.named_modules() if isinstance(m, LossBalancer)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise RecordError(
            f"record: there is no LossBalancer in {type(module).__name__}; pass the balancer itself"
        )
    raise RecordError(
        f"record: {type(module).__name__} holds {len(found)} balancers, {', '.join(found)}; "
        "pass the one to record"
    )
