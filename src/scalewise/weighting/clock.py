"""The host's side of the balancer: counters that no device has to be asked for."""

from __future__ import annotations

from torch import Tensor


class Clock:
    """Counts calls, and knows which row of the block is next.

    It is no module attribute per counter because setting one on an `nn.Module` costs several
    microseconds. Copies and pickles take the counters along and drop the views.

    Attributes:
        calls: recorded calls ever.
        phase: recorded calls in the current interval.
        intervals: finished intervals.
        advanced: whether the last eager forward already counted itself.
        block: the tensor that `rows` are views of.
        rows: its rows, cached because making a view costs more than writing through it.
    """

    __slots__ = ("advanced", "block", "calls", "intervals", "phase", "rows")

    def __init__(self, calls: int = 0, phase: int = 0, intervals: int = 0) -> None:
        self.calls = calls
        self.phase = phase
        self.intervals = intervals
        self.advanced = False
        self.block: Tensor | None = None
        self.rows: tuple[Tensor, ...] = ()

    def __reduce__(self) -> tuple[type[Clock], tuple[int, int, int]]:
        return Clock, (self.calls, self.phase, self.intervals)

    def bind(self, block: Tensor) -> None:
        """Take the rows of `block` [B, n]: at first use, after a move, a copy or an assignment."""
        self.block = block
        self.rows = block.unbind(0)
