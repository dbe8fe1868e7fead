"""A balancer's hooks, which fill a trace."""

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
        balancer: What is recorded.
        path: Wished name of the file.
        every: Steps between two writes.
        groups: Their names.

    Attributes:
        path: The file that is written.
        steps: Rows recorded so far.
        missed: Calls of the balancer that were counted but not seen.
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
        """Write all rows so far; recording goes on."""
        if self.steps:
            self._trace.save()

    def close(self) -> None:
        """Stop recording, write the file, and warn of what it lacks. Again: does nothing."""
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
            # such as a lost device: what lost it is on its way up already
            warnings.warn(f"record: {self.path} lacks the last steps: {second}", stacklevel=2)

    def _before(self, balancer: LossBalancer, args: Any) -> None:
        """Note what is in force; the call itself may already end the interval."""
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
    """A hook that stays behind when its module is copied or pickled."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> None:
        self.function(*args)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _stand_in, ()


def _no_hook(*args: Any) -> None:
    """What a copy of a recorded module has in place of the hook."""


def _stand_in() -> Callable[..., None]:
    return _no_hook


def _reserve(path: Path, open_trace: Callable[[Path], Trace]) -> Trace:
    """A trace at the first free name, held by an empty file until rows are written."""
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
