"""The module a training loop calls: weighs the level losses and keeps their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from scalewise.default import SCHEME
from scalewise.weighting.clock import Clock
from scalewise.weighting.guard import sift
from scalewise.weighting.moments import (
    Moments,
    finish,
    is_finite,
    merge,
    split,
    summarize,
    summarize_per_positive,
)
from scalewise.weighting.parallel import Group, merge_ranks
from scalewise.weighting.scheme import LearnedScheme, SchemeLike, attach
from scalewise.weighting.words import as_scheme

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Steps recorded between two reductions, and the memory of the outlier guard. One reduction per
# interval at the default of 100 steps; longer intervals are reduced in blocks, in the same memory.
BLOCK = 128


class LossBalancer(nn.Module):
    """Weighs the losses of a detector's levels, and renews the weights once per interval.

    Call it with the level losses on every training step and back-propagate what it returns. It is
    differentiable with respect to the losses; the weights carry no gradient. In eval mode or with
    gradients disabled it weighs, but records and changes nothing.

    Inside `torch.compile` or a CUDA graph the call only weighs and records; call `advance()` once
    after each call, outside and after the backward pass. In eager mode that is done already and
    `advance()` does nothing, so a loop may always call it.

    No step, interval ends included, moves a value from the device to the host.

    Args:
        num_levels: number of levels n, at least 1.
        scheme: words (see `scheme_from_words`), a `Scheme`, or a function (current, previous) ->
            weights float32 [n] of two `Moments`.
        interval: optimizer steps between two weight updates.
        normalize: "loss" scales the weights by one factor so that the last interval's mean loss
            stays what it was unweighted. "mean" keeps the mean weight at 1. Schemes with parameters
            compute the total themselves and are not scaled.
        accumulate: calls per optimizer step; the weights never change between them.
        guard: steps whose total exceeds this many times the median of the last 128 are left out of
            the statistics (never out of the loss); None keeps all. Above 1.
        seed: of the schemes' random numbers.
        process_group: ranks whose statistics are merged; None is the default group.

    Attributes:
        weights: buffer float32 [n], the weights in force. Its storage never changes, its values do
            at the end of an interval: clone it before saving it for a backward pass of your own.
        rejected: buffer int64 scalar, proposals that were not finite, had a negative weight or only
            zeros; the weights then stayed as they were.
        scheme: the scheme.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `scheme` is none of the above.
    """

    weights: Tensor
    left_out: Tensor
    rejected: Tensor
    block: Tensor
    latest: Tensor
    running: Tensor
    finished: Tensor

    if TYPE_CHECKING:

        def __call__(
            self, level_losses: Tensor | Sequence[Tensor], positives: Tensor | None = None
        ) -> Tensor:
            """See `forward`."""

    def __init__(
        self,
        num_levels: int,
        scheme: SchemeLike = SCHEME,
        interval: int = 100,
        normalize: Literal["mean", "loss"] = "loss",
        accumulate: int = 1,
        guard: float | None = 10.0,
        seed: int = 0,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_levels", num_levels),
            ("interval", interval),
            ("accumulate", accumulate),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if normalize not in ("mean", "loss"):
            raise ValueError(f"normalize must be 'mean' or 'loss', got {normalize!r}")
        if guard is not None and not guard > 1:
            raise ValueError(f"guard must be above 1, or None to keep all values; got {guard}")
        self.scheme = as_scheme(scheme)
        self._learned = isinstance(self.scheme, LearnedScheme)
        self._per_positive = self.scheme.per_positive
        attach(self.scheme, num_levels, seed)
        self.num_levels = num_levels
        self.interval = interval
        self.normalize = normalize
        self.accumulate = accumulate
        self.guard = guard
        self._group = Group(process_group)
        self._clock = Clock()
        self._period = interval * accumulate
        self._last_window = self._period - accumulate
        initial = self.scheme.initial()
        self.register_buffer("weights", initial * (num_levels / initial.sum()))
        self.register_buffer("left_out", torch.zeros(2, num_levels, dtype=torch.int64))
        self.register_buffer("rejected", torch.tensor(0))
        # Losses and, for schemes that look at them, positives beside them.
        width = 2 * num_levels if self._per_positive else num_levels
        self.register_buffer("block", torch.zeros(BLOCK, width))
        self.register_buffer("latest", torch.zeros(width))
        self.register_buffer("running", torch.zeros(5, width))  # a partial
        self.register_buffer("finished", torch.zeros(3, width))  # moments

    @property
    def calls(self) -> int:
        """Number of recorded calls ever, known without asking the device."""
        return self._clock.calls

    @property
    def last_losses(self) -> Tensor:
        """The unweighted losses of the last recorded call, float32 [n]; all 0 before the first."""
        return self.block[(self.calls - 1) % BLOCK, : self.num_levels].clone()

    @property
    def intervals(self) -> int:
        """Number of finished intervals, known without asking the device."""
        return self._clock.intervals

    @property
    def statistics(self) -> Moments:
        """Moments of the last finished interval; all 0 before the first. A copy, on the device."""
        count, mean, variance = self.finished.clone().unbind(0)
        return self._split(Moments(count, mean, variance))

    @property
    def skipped(self) -> Tensor:
        """Non-finite values left out, over all ranks and finished intervals: int64 [n]."""
        return self.left_out[0]

    @property
    def outliers(self) -> Tensor:
        """Values left out by the guard, over all ranks and finished intervals: int64 [n]."""
        return self.left_out[1]

    def forward(
        self, level_losses: Tensor | Sequence[Tensor], positives: Tensor | None = None
    ) -> Tensor:
        """Weigh the losses of one step.

        Args:
            level_losses: floating [n], or n floating scalars. Their sum is the detector's own loss.
            positives: [n], positive anchors or locations of each level in this step, on the losses'
                device. Needed where `scheme.per_positive`, else not looked at.

        Returns:
            Scalar `sum_i w_i l_i`: float64 for float64 input, else float32, also under autocast.

        Raises:
            ValueError: the number or shape of the losses or positives does not fit, they are on
                another device, or the scheme needs positives and none are given.
        """
        levels = level_losses if isinstance(level_losses, Tensor) else self._stack(level_losses)
        weights = cast(Tensor, self._buffers["weights"])  # Module.__getattr__ is slow
        if levels.shape != weights.shape or levels.device != weights.device:
            raise self._misfit(levels)
        recording = self.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling() or (
            levels.is_cuda and torch.cuda.is_current_stream_capturing()
        ):
            if recording:
                self.latest.copy_(self._row(levels, positives))
            return self._total(levels, weights.clone())
        if not recording:
            return self._total(levels, weights)
        clock = self._clock
        if clock.phase >= self._last_window:
            # The update may come before this window's backward, which still needs today's weights.
            weights = weights.clone()
        total = self._total(levels, weights)
        self._record(self._row(levels, positives))
        clock.advanced = True
        return total

    def advance(self) -> None:
        """Count a call made inside a compiled function or a CUDA graph.

        Call it once after every training call of the balancer (so `accumulate` times per optimizer
        step), outside of the compiled or captured part and after the backward pass. After an eager
        call it does nothing. If it is forgotten, the weights stay as they are.
        """
        clock = self._clock
        if clock.advanced:
            clock.advanced = False
            return
        if not self.training:
            return
        self._record(self.latest)

    def _total(self, levels: Tensor, weights: Tensor) -> Tensor:
        if levels.dtype is not torch.float32:
            # bf16 would round a weight of 1.003 to 1.
            levels = levels if levels.dtype is torch.float64 else levels.float()
            weights = weights.to(levels.dtype)
        if self._learned:
            return cast(LearnedScheme, self.scheme).weigh(levels)
        return torch.dot(weights, levels)

    def _row(self, levels: Tensor, positives: Tensor | None) -> Tensor:
        """What is recorded of a step: [n], or [2n] with the positives behind the losses."""
        if not self._per_positive:
            return levels.detach()
        if positives is None:
            raise ValueError(
                f"scheme {self.scheme.name!r} looks at losses per positive: call the balancer with "
                "the number of positives of each level as well, balancer(losses, positives), or "
                "make the scheme without per_positive"
            )
        if positives.shape != levels.shape or positives.device != levels.device:
            raise ValueError(
                f"the positives are of shape {tuple(positives.shape)} on {positives.device}, the "
                f"losses of shape {tuple(levels.shape)} on {levels.device}; pass one number for "
                "each level, on the device of the losses"
            )
        return torch.cat((levels.detach().float(), positives.detach().float()))

    def _record(self, row: Tensor) -> None:
        """Store one step, and end the block or the interval when it is due."""
        clock = self._clock
        block = cast(Tensor, self._buffers["block"])
        if clock.block is not block:
            clock.bind(block)
        clock.rows[clock.calls % BLOCK].copy_(row)
        clock.calls += 1
        clock.phase = phase = clock.phase + 1
        if phase >= self._period:
            self._reduce(clock)
            self._renew()
            clock.phase = 0
            clock.intervals += 1
        elif phase % BLOCK == 0:
            self._reduce(clock)

    @torch.no_grad()
    def _reduce(self, clock: Clock) -> None:
        """Merge the rows recorded since the last reduction into the running interval."""
        fresh = (clock.phase - 1) % BLOCK + 1
        recent = self.block.roll(-(clock.calls % BLOCK), 0)  # [B, n] or [B, 2n], oldest first
        losses = recent[:, : self.num_levels]
        sifted = sift(losses[-min(clock.calls, BLOCK) :], fresh, self.guard)
        partial = summarize(sifted.values, sifted.finite, sifted.outlier)
        if self._per_positive:
            keep = sifted.finite ^ sifted.outlier
            positives = recent[-fresh:, self.num_levels :]
            shared = summarize_per_positive(sifted.values, positives, keep)
            partial = torch.cat((partial, shared), 1)
        if clock.phase > BLOCK:
            partial = merge(torch.stack((self.running, partial)))
        self.running.copy_(partial)

    @torch.no_grad()
    def _renew(self) -> None:
        """End the interval: merge the ranks, ask the scheme, set the weights."""
        partial = merge_ranks(self.running, self._group)
        finished = finish(partial)
        current = self._split(finished)
        self.left_out.add_(partial[3:, : self.num_levels].to(torch.int64))
        proposal = self.scheme.propose(current, self.statistics)
        if proposal.shape != self.weights.shape:
            raise ValueError(
                f"scheme {self.scheme.name!r} proposed weights of shape {tuple(proposal.shape)} "
                f"for {self.num_levels} levels; return a tensor of shape ({self.num_levels},)"
            )
        if self._learned:
            self.weights.copy_(proposal)
        else:
            self._set_weights(proposal, current)
        self.finished.copy_(torch.stack((finished.count, finished.mean, finished.variance)))

    def _split(self, moments: Moments) -> Moments:
        return split(moments, self.num_levels) if self._per_positive else moments

    def _set_weights(self, proposal: Tensor, current: Moments) -> None:
        mean = proposal.mean()
        weights = proposal / mean
        sound = (weights >= 0).all() & (mean > 0)  # also False for NaN and infinity
        if self.normalize == "loss":
            # Levels without values have mean 0 and drop out of both sums, which are alike, so that
            # equal weights stay 1 to the bit.
            factor = current.mean.sum() / (weights * current.mean).sum()
            weights = weights * torch.where(is_finite(factor) & (factor > 0), factor, 1.0)
        torch.where(sound, weights, self.weights, out=self.weights)
        self.rejected += ~sound

    def _stack(self, losses: Sequence[Tensor]) -> Tensor:
        losses = list(losses)
        if len(losses) != self.num_levels:
            raise self._mismatch(f"{len(losses)} losses")
        for level, loss in enumerate(losses):
            if not isinstance(loss, Tensor) or loss.dim() != 0:
                what = (
                    f"a tensor of shape {tuple(loss.shape)}"
                    if isinstance(loss, Tensor)
                    else f"a {type(loss).__name__}"
                )
                raise ValueError(f"the loss of level {level} is {what}; pass a scalar tensor each")
        return torch.stack(losses)

    def _misfit(self, levels: Tensor) -> ValueError:
        if levels.shape != self.weights.shape:
            return self._mismatch(f"a tensor of shape {tuple(levels.shape)}")
        return ValueError(
            f"the losses are on {levels.device}, the balancer on {self.weights.device}; "
            f"move it: balancer.to({str(levels.device)!r})"
        )

    def _mismatch(self, got: str) -> ValueError:
        return ValueError(
            f"this balancer has num_levels={self.num_levels} but got {got}; pass a tensor of shape "
            f"({self.num_levels},) or {self.num_levels} scalars, or make the balancer with the "
            "model's number of levels"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LossBalancer:
        """Move, but never change dtype: a model cast to half precision keeps exact weights."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        cast(Callable[..., Any], super()._apply)(move, recurse)
        return self

    def get_extra_state(self) -> Tensor:
        """Host counters and the scheme's name as int64, for `state_dict`."""
        clock = self._clock
        header = [self.num_levels, clock.calls, clock.phase, clock.intervals]
        return torch.tensor(header + list(self.scheme.name.encode()), device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        calls, phase, intervals = state[1:4].tolist()
        self._clock = Clock(calls, phase, intervals)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse a state of another scheme or number of levels before anything is overwritten."""
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None:
            codes = cast(list[int], saved.tolist())
            name = bytes(codes[4:]).decode()
            if codes[0] != self.num_levels or name != self.scheme.name:
                raise ValueError(
                    f"the saved balancer has {codes[0]} levels and scheme {name!r}, this one "
                    f"{self.num_levels} levels and scheme {self.scheme.name!r}; "
                    "make it with the saved settings, or start without its state"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
