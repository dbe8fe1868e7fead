"""The balancer's counters, kept on the host so that no value has to be read from the device."""

from __future__ import annotations

from torch import Tensor

SHORTEST, LONGEST = 5, 100  # steps of an interval that grows
GROWTH = 0.1  # of the steps so far


def growing_interval(steps: int) -> int:
    """Length of the interval that begins after `steps` optimizer steps: a tenth of them.

    At least 5, so that the weights move within the first steps of any training, and at most 100.
    """
    return min(LONGEST, max(SHORTEST, int(GROWTH * steps)))


class Clock:
    """Counts calls, and knows which row of the block is next.

    The counters are not attributes of the module, because setting one on an `nn.Module` takes
    several microseconds. Copies and pickles keep the counters and drop the views.

    Attributes:
        calls: recorded calls ever.
        phase: recorded calls in the current interval.
        short: calls that windows of the current interval, closed early, were short of.
        shortfall: the same, of all intervals before it.
        intervals: finished intervals.
        advanced: whether the last eager forward already counted itself.
        block: the tensor that `rows` are views of.
        rows: its rows, cached because making a view costs more than writing through it.
        period: calls in the current interval; 0 until the balancer has set it.
    """

    __slots__ = (
        "advanced",
        "block",
        "calls",
        "intervals",
        "period",
        "phase",
        "rows",
        "short",
        "shortfall",
    )

    def __init__(
        self, calls: int = 0, phase: int = 0, intervals: int = 0, short: int = 0, shortfall: int = 0
    ) -> None:
        self.calls = calls
        self.phase = phase
        self.intervals = intervals
        self.short = short
        self.shortfall = shortfall
        self.advanced = False
        self.block: Tensor | None = None
        self.rows: tuple[Tensor, ...] = ()
        self.period = 0

    def __reduce__(self) -> tuple[type[Clock], tuple[int, int, int, int, int]]:
        return Clock, (self.calls, self.phase, self.intervals, self.short, self.shortfall)

    def bind(self, block: Tensor) -> None:
        """Take the rows of `block` [B, n]: at first use, after a move, a copy or an assignment."""
        self.block = block
        self.rows = block.unbind(0)
