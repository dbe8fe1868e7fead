"""What a balancer records of its groups: a row a step, moments an interval, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from scalewise.weighting.clock import Clock, growing_interval
from scalewise.weighting.guard import sift
from scalewise.weighting.moments import (
    POOLED,
    ROWS,
    Moments,
    finish_pooled,
    is_finite,
    merge,
    moments_of,
    pool_interval,
    summarize,
    summarize_positives,
)
from scalewise.weighting.parallel import Ranks, merge_ranks

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Steps recorded between two reductions, and the memory of the outlier guard. One reduction per
# interval at the default of 100 steps; longer intervals are reduced in blocks, in the same memory.
BLOCK = 128


class GroupHistory(nn.Module):
    """Keeps the losses of groups step by step, and their moments once per interval.

    The base of `LossBalancer`, which makes new weights of the moments at an interval's end.

    Args:
        names: of the n groups.
        by, interval, accumulate, guard, memory, process_group: see `LossBalancer`.
    """

    left_out: Tensor
    block: Tensor
    latest: Tensor
    running: Tensor
    finished: Tensor
    pooled: Tensor

    def __init__(
        self,
        names: Sequence[str],
        by: str,
        interval: int | Literal["auto"],
        accumulate: int,
        guard: float | None,
        memory: float,
        process_group: ProcessGroup | None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.num_groups = len(names)
        self.by = by
        self._whole = by == "level"
        self.interval = 100 if interval == "auto" and self._whole else interval
        self.accumulate = accumulate
        self.guard = guard
        self.memory = memory
        self._ranks = Ranks(process_group)
        self._clock = Clock()
        self.register_buffer("left_out", torch.zeros(2, self.num_groups, dtype=torch.int64))
        # Losses and, for groups of positives, the background's and the numbers of positives.
        width = self.num_groups if self._whole else 2 * self.num_groups + 1
        self.register_buffer("block", torch.zeros(BLOCK, width))
        self.register_buffer("latest", torch.zeros(width))
        self.register_buffer("running", torch.zeros(ROWS, self.num_groups))  # a partial
        fields = 3 if self._whole else 5
        self.register_buffer("finished", torch.zeros(fields, self.num_groups))  # moments
        if not self._whole:
            self.register_buffer("pooled", torch.zeros(POOLED, self.num_groups))

    @property
    def calls(self) -> int:
        """Number of recorded calls ever, known without asking the device."""
        return self._clock.calls

    @property
    def last_losses(self) -> Tensor:
        """The unweighted losses of the last recorded call, float32 [n]; all 0 before the first."""
        return self.block[(self.calls - 1) % BLOCK, : self.num_groups].clone()

    @property
    def intervals(self) -> int:
        """Number of finished intervals, known without asking the device."""
        return self._clock.intervals

    @property
    def steps_of_interval(self) -> int:
        """Length of the current interval in optimizer steps, known without asking the device."""
        clock = self._clock
        return (clock.period or self._set_period(clock)) // self.accumulate

    @property
    def statistics(self) -> Moments:
        """Moments of the last finished interval; all 0 before the first. A copy, on the device."""
        if self._whole:
            return Moments(*self.finished.clone())
        return replace(Moments(*self.finished.clone()), pooled=finish_pooled(self.pooled.clone()))

    @property
    def skipped(self) -> Tensor:
        """Non-finite values left out, over all ranks and finished intervals: int64 [n]."""
        return self.left_out[0]

    @property
    def skipped_since(self) -> Tensor:
        """Non-finite values of this rank in the unfinished interval, not yet in `skipped`: [n]."""
        clock = self._clock
        fresh = clock.phase % BLOCK
        before = self.running[3].to(torch.int64) if clock.phase > fresh else self.left_out[0] * 0
        rows = self.block.roll(-(clock.calls % BLOCK), 0)[BLOCK - fresh :, : self.num_groups]
        return before + (~is_finite(rows)).sum(0)

    @property
    def outliers(self) -> Tensor:
        """Values left out by the guard, over all ranks and finished intervals: int64 [n]."""
        return self.left_out[1]

    def close_window(self) -> None:
        """Say that the optimizer made its step before `accumulate` calls, as at an epoch's end.

        It then counts as a whole step of the interval, so that weights never change between the
        calls of one optimizer step. After a full number of calls this does nothing, so a loop may
        call it after every optimizer step.
        """
        clock = self._clock
        missing = -(clock.phase + clock.short) % self.accumulate
        if not missing:
            return
        clock.short += missing
        if clock.phase + clock.short >= (clock.period or self._set_period(clock)):
            if clock.phase % BLOCK:
                self._reduce(clock)
            self._end_interval(clock)

    def _row(self, groups: Tensor, positives: Tensor | None) -> tuple[Tensor, ...]:
        """What is recorded of a step: [n], or with the background and the positives [2n + 1]."""
        if self._whole:
            return (groups.detach(),)
        if positives is None:
            raise ValueError(
                f"by {self.by} the balancer weighs positives: call it with the number of positives "
                "of each group as well, balancer(losses, positives)"
            )
        if positives.shape != (self.num_groups,) or positives.device != groups.device:
            raise ValueError(
                f"the positives are of shape {tuple(positives.shape)} on {positives.device}, for "
                f"{self.num_groups} groups with losses on {groups.device}; pass one number for "
                "each group, on the device of the losses"
            )
        losses = groups.detach()
        if positives.requires_grad:
            positives = positives.detach()
        if losses.dtype is not torch.float32 or positives.dtype is not torch.float32:
            losses, positives = losses.float(), positives.float()
        if losses.numel() == self.num_groups:
            return losses, losses.new_zeros(1), positives
        return losses, positives

    def _set_period(self, clock: Clock) -> int:
        """Set how many calls the current interval has, from the steps before it."""
        begun = (clock.calls - clock.phase + clock.shortfall) // self.accumulate
        steps = growing_interval(begun) if self.interval == "auto" else self.interval
        clock.period = steps * self.accumulate
        return clock.period

    def _record(self, clock: Clock, parts: tuple[Tensor, ...]) -> None:
        """Store one step, and end the block or the interval when it is due."""
        block = self._buffers["block"]
        if clock.block is not block:
            clock.bind(self.block)
        row = clock.rows[clock.calls % BLOCK]
        if len(parts) == 1:
            row.copy_(parts[0])
        else:
            torch.cat(parts, out=row)
        clock.calls += 1
        clock.phase = phase = clock.phase + 1
        if phase + clock.short >= (clock.period or self._set_period(clock)):
            self._reduce(clock)
            self._end_interval(clock)
        elif phase % BLOCK == 0:
            self._reduce(clock)

    def _end_interval(self, clock: Clock) -> None:
        self._renew(*self._moments())
        clock.shortfall += clock.short
        clock.phase = clock.short = clock.period = 0
        clock.intervals += 1

    @torch.no_grad()
    def _reduce(self, clock: Clock) -> None:
        """Merge the rows recorded since the last reduction into the running interval."""
        fresh = (clock.phase - 1) % BLOCK + 1
        recent = self.block.roll(-(clock.calls % BLOCK), 0)  # [B, n] or [B, 2n + 1], oldest first
        losses = recent[:, : self.num_groups]
        sifted = sift(losses[-min(clock.calls, BLOCK) :], fresh, self.guard)
        if self._whole:
            partial = summarize(sifted.values, sifted.finite, sifted.outlier)
        else:
            positives = recent[-fresh:, self.num_groups + 1 :]
            partial = summarize_positives(sifted.values, positives, sifted.finite, sifted.outlier)
        if clock.phase > BLOCK:
            partial = merge(torch.stack((self.running, partial)))
        self.running.copy_(partial)

    @torch.no_grad()
    def _moments(self) -> tuple[Moments, Moments]:
        """Merge the ranks' intervals; the moments of this one and of the one before."""
        partial = merge_ranks(self.running, self._ranks)
        self.left_out.add_(partial[3:5].to(torch.int64))
        before = Moments(*self.finished.clone())
        if self._whole:
            current = moments_of(partial)
        else:
            total, alone, pooled, past = pool_interval(self.pooled, partial, self.memory)
            self.pooled.copy_(total)
            current, before = replace(alone, pooled=pooled), replace(before, pooled=past)
        rows = (current.count, current.mean, current.variance, current.positives, current.presence)
        torch.stack([row for row in rows if row is not None], out=self.finished)
        return current, before

    def _renew(self, current: Moments, before: Moments) -> None:
        raise NotImplementedError
