"""Hooks on a balancer that write a trace."""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from scalewise.errors import UserError
from scalewise.lab.training.trace import Trace, TraceInterval
from scalewise.weighting import LossBalancer


class Recording:
    """A running record of one balancer; made by `record`.

    Args:
        balancer: The balancer to record.
        path: Name of the file; if it exists, a number is added.
        every: Number of steps between two writes of the file.
        groups: Names of the groups.

    Attributes:
        path: The file that is written.
        steps: Number of rows recorded so far.
        missed: Number of calls that the balancer counted but that could not be recorded.
    """

    def __init__(
        self, balancer: LossBalancer, path: Path, every: int, groups: Sequence[str]
    ) -> None:
        actions = getattr(balancer.scheme, "action_names", ())
        self._trace = _reserve(path, lambda free: Trace(free, ("",), groups, actions))
        self.path = self._trace.path
        self.steps = 0
        self.missed = 0
        self._balancer = balancer
        self._every = every
        self._calls = balancer.calls
        self._source: tuple[Tensor | None, int] = (None, -1)
        self._interval: TraceInterval | None = None
        self._device: torch.device | None = None
        self._hooks: tuple[RemovableHandle, ...] = (
            balancer.register_forward_pre_hook(_Hook(self._before)),
            balancer.register_forward_hook(_Hook(self._after), with_kwargs=True),
        )
        atexit.register(self.close)

    def save(self) -> None:
        """Write all rows so far, and continue to record."""
        if self.steps:
            self._trace.save()

    def close(self) -> None:
        """Stop recording, write the file, and warn of missing rows. A second call does nothing."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()
        atexit.unregister(self.close)
        self._count_missed()
        self.save()
        if not self.steps:
            self.path.unlink(missing_ok=True)
            warnings.warn(
                f"record: nothing was recorded, so {self.path} was not written: the balancer was "
                "not called eagerly, in training mode and with gradients enabled",
                stacklevel=2,
            )
        if self.missed:
            warnings.warn(
                f"record: {self.missed} calls of the balancer are not in {self.path}: they ran "
                "inside torch.compile or a CUDA graph, or a loaded state skipped them",
                stacklevel=2,
            )

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except (RuntimeError, UserError) as second:
            if error is None:
                raise
            # the error of the `with` block, perhaps the cause of this one, is already being raised
            warnings.warn(f"record: {self.path} lacks the last steps: {second}", stacklevel=2)

    def _before(self, balancer: LossBalancer, args: Any) -> None:
        """Keep the current weights and action, since the call may end the interval."""
        if not self._records(balancer):
            return
        self._count_missed()
        weights = balancer.weights
        known, version = self._source
        if known is not weights or version != weights._version:
            action = getattr(balancer.scheme, "action", None)
            probabilities = getattr(balancer.scheme, "probabilities", None)
            self._interval = TraceInterval(
                balancer.intervals,
                weights.detach().clone(),
                action.clone() if isinstance(action, Tensor) else None,
                probabilities.detach().clone() if isinstance(probabilities, Tensor) else None,
            )
            self._source = (weights, weights._version)

    def _after(self, balancer: LossBalancer, args: Any, kwargs: Any, output: Any) -> None:
        if not self._records(balancer):
            return
        assert self._interval is not None
        given = args[0] if args else kwargs["losses"]
        losses = given if isinstance(given, Tensor) else torch.stack(list(given))
        if losses.device != self._device:
            self._trace.flush()
            self._device = losses.device
        counts: Tensor | None = args[1] if len(args) > 1 else kwargs.get("positives")
        if counts is not None:
            counts = counts.detach().float()
        row = losses.detach().float()[None]  # [1, n], or [1, n + 1] with the background
        self._trace.add(self.steps, None, None, row, counts, self._interval)
        self.steps += 1
        self._calls = balancer.calls
        if self.steps % self._every == 0:
            self._trace.save()

    def _records(self, balancer: LossBalancer) -> bool:
        if torch.compiler.is_compiling():
            return False
        if balancer.weights.is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        return balancer.training and torch.is_grad_enabled()

    def _count_missed(self) -> None:
        self.missed += max(0, self._balancer.calls - self._calls)
        self._calls = self._balancer.calls


class _Hook:
    """A hook that does nothing in a copied or unpickled module."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> None:
        self.function(*args)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _stand_in, ()


def _no_hook(*args: Any) -> None:
    """Takes the place of the hook in a copy of a recorded module."""


def _stand_in() -> Callable[..., None]:
    return _no_hook


def _reserve(path: Path, open_trace: Callable[[Path], Trace]) -> Trace:
    """Open a trace under the first free name; an empty file reserves it until rows are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        free = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
        if free.exists():
            continue
        trace = open_trace(free)
        try:
            free.touch(exist_ok=False)
        except FileExistsError:
            continue
        return trace
