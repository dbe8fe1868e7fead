"""The module that a training loop calls: it weighs the losses of groups and renews the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from scalewise.default import default_scheme
from scalewise.weighting.clock import Clock
from scalewise.weighting.history import GroupHistory
from scalewise.weighting.inputs import check_settings, misfit, stack_losses
from scalewise.weighting.moments import Moments, is_finite
from scalewise.weighting.parallel import world_size
from scalewise.weighting.rlo import RLO
from scalewise.weighting.scaling import scale_levels, scale_positives
from scalewise.weighting.scheme import LearnedScheme, SchemeLike, give_groups
from scalewise.weighting.words import as_scheme

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

CLIP = (0.25, 8.0)
MEMORY = 0.9


class LossBalancer(GroupHistory):
    """Weighs the losses of a detector's groups, and renews the weights once per interval.

    A group is a whole level with its background (`by="level"`), or the positives of one class, size
    or level. Call the balancer with the losses of the groups in every training step, and
    back-propagate what it returns. Gradients flow to the losses; the weights have none. In eval
    mode or with gradients disabled, losses are weighed but not recorded, and no weight changes.

    Inside `torch.compile` or a CUDA graph the call only weighs and records; call `advance()` once
    after each call, outside of the compiled part and after the backward pass. In eager mode
    `advance()` does nothing, so a loop may always call it.

    No call copies a value from the device to the host, not even at an interval's end.

    Args:
        groups: number n of groups, at least 1, or their names.
        scheme: words (see `scheme_from_words`), a `Scheme`, or a function (current, previous) ->
            weights float32 [n] of two `Moments`. Default: the one that suits `by`.
        interval: optimizer steps between two weight updates. "auto" is 100 for whole levels; for
            positives it is a tenth of the steps so far, at least 5 and at most 100, so that the
            weights move early in a training of any length.
        normalize: what the weights keep. "loss" scales them by one factor so that the mean loss
            stays what it is unweighted; "mean" keeps the mean weight at 1; "positives" the mean
            weight over the positives; "lift" does the same and then raises every weight below 1 to
            1, so that no group weighs less than in plain training. "auto" is "loss" for whole
            levels, else "lift".
            Schemes with parameters or with given weights are not scaled.
        accumulate: calls per optimizer step; the weights never change between them.
        guard: steps whose total exceeds this many times the median of the last 128 are left out of
            the statistics (never out of the loss); None keeps all. Above 1.
        seed: of the schemes' random numbers.
        process_group: ranks whose statistics are merged; None is the default group.
        by: "level" for whole levels; any other word says how positives are grouped ("class",
            "size", "level-positives"), and the balancer is then called with their numbers too.
        clip: least and largest weight of a group of positives, before the last scaling. The weight
            of a group that is only in a part p of the optimizer's steps is then `1 + p (w - 1)`.
        memory: 0 to below 1; with each new interval, the earlier ones count so much of what they
            counted before in the pooled statistics of positives.
        objects: number of objects of each group in the training set, for schemes that ask for it.

    Attributes:
        weights: buffer float32 [n], the weights in force. Its storage never changes, its values do
            at the end of an interval: clone it before saving it for a backward pass of your own.
        rejected: buffer int64 scalar, number of proposals that were not finite, had a negative
            weight or only zeros; the weights then stayed as they were.
        scheme: the scheme.
        num_groups: n.
        names: of the groups; "level0" or "group0", ... if only their number was given.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `scheme` is of another type.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> balancer = sw.LossBalancer(["cat", "dog"], "share", by="class", interval=2)
        >>> for step in range(2):
        ...     # cats, dogs, background
        ...     losses = torch.tensor([9.0, 1.0, 5.0], requires_grad=True)
        ...     total = balancer(losses, torch.tensor([90.0, 10.0]))
        ...     total.backward()
        >>> balancer.weights  # a dog is nine times rarer
        tensor([1.0000, 2.5000])
    """

    weights: Tensor
    padded: Tensor
    rejected: Tensor

    if TYPE_CHECKING:

        def __call__(
            self,
            losses: Tensor | Sequence[Tensor],
            positives: Tensor | None = None,
        ) -> Tensor:
            """See `forward`."""

    def __init__(
        self,
        groups: int | Sequence[str],
        scheme: SchemeLike | None = None,
        interval: int | Literal["auto"] = "auto",
        normalize: Literal["auto", "mean", "loss", "positives", "lift"] = "auto",
        accumulate: int = 1,
        guard: float | None = 10.0,
        seed: int = 0,
        process_group: ProcessGroup | None = None,
        *,
        by: str = "level",
        clip: tuple[float, float] = CLIP,
        memory: float = MEMORY,
        objects: Sequence[float] | None = None,
    ) -> None:
        kind = "level" if by == "level" else "group"
        names = [f"{kind}{i}" for i in range(groups)] if isinstance(groups, int) else list(groups)
        check_settings(names, by, interval, normalize, accumulate, guard, clip, memory, objects)
        super().__init__(names, by, interval, accumulate, guard, memory, process_group)
        natural = "loss" if self._whole else "lift"
        self.normalize = natural if normalize == "auto" else normalize
        self.clip = clip
        self.scheme = as_scheme(default_scheme(by) if scheme is None else scheme)
        self._learned = isinstance(self.scheme, LearnedScheme)
        give_groups(self.scheme, self.names, by, seed, None if objects is None else tuple(objects))
        initial = self.scheme.initial()
        if not self.scheme.fixed:
            initial = initial * (self.num_groups / initial.sum())
        # One place more, for the background, whose weight is 1.
        self.register_buffer("padded", torch.cat((initial, torch.ones(1))), persistent=False)
        self.register_buffer("weights", self.padded[:-1])
        self.register_buffer("rejected", torch.tensor(0))
        cast(Any, self).register_state_dict_post_hook(_copy_buffers)

    def forward(self, losses: Tensor | Sequence[Tensor], positives: Tensor | None = None) -> Tensor:
        """Weigh the losses of one step.

        Args:
            losses: floating [n], or n floating scalars: the loss of each group, normalised as the
                detector normalises it. For groups of positives also [n + 1]: the last is the loss
                of the background and of all else that is in no group. Their sum is the detector's
                own loss.
            positives: [n], positive anchors or locations of each group in this step, on the losses'
                device; where they have soft targets, which weigh their loss, the sums of these.
                Needed for groups of positives, else not looked at.

        Returns:
            Scalar `sum_i w_i l_i`, the background's weight 1: float64 for float64 input, else
            float32, also under autocast.

        Raises:
            ValueError: the number or shape of the losses or positives does not fit, they are on
                another device, or positives are missing.
        """
        groups = losses if isinstance(losses, Tensor) else stack_losses(losses, self.num_groups)
        weights = self._buffers["weights"]  # Module.__getattr__ is slow
        assert weights is not None
        if groups.shape != weights.shape or groups.device != weights.device:
            weights = self._with_background(groups, weights)
        recording = self.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling() or (
            groups.is_cuda and torch.cuda.is_current_stream_capturing()
        ):
            if recording:
                parts = self._row(groups, positives)
                self.latest.copy_(parts[0] if len(parts) == 1 else torch.cat(parts))
            return self._total(groups, weights.clone())
        if not recording:
            return self._total(groups, weights)
        clock = self._clock
        elapsed = clock.phase + clock.short
        if elapsed + self.accumulate >= (clock.period or self._set_period(clock)):
            # The update may come before this window's backward, which still needs today's weights.
            weights = weights.clone()
        total = self._total(groups, weights)
        self._record(clock, self._row(groups, positives))
        clock.advanced = True
        return total

    def _with_background(self, groups: Tensor, weights: Tensor) -> Tensor:
        """The weights for losses [n + 1].

        Raises:
            ValueError: the losses are of another shape or on another device.
        """
        padded = self._buffers["padded"]
        assert padded is not None
        if self._whole or groups.shape != padded.shape or groups.device != padded.device:
            raise misfit(groups, self.weights)
        if weights._base is not padded:  # replaced, by a load with assign=True
            self._join()
            padded = self.padded
        return padded

    def _join(self) -> None:
        """Make the weights a part of the padded ones again."""
        weights = self.weights
        self.padded = torch.cat((weights, weights.new_ones(1)))
        self._buffers["weights"] = self.padded[:-1]

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
        self._record(clock, (self.latest,))

    def reward(self, value: float | Tensor) -> None:
        """Give a policy the figure that it is to raise, after each validation.

        This may be AP on images that are kept out of training; `RLO(reward="validation")` learns
        from its rise. Do not use the split that is reported in the end.

        Args:
            value: floating scalar.

        Raises:
            ValueError: the scheme learns from no such number.
        """
        scheme = self.scheme
        if not isinstance(scheme, RLO) or scheme.reward != "validation":
            raise ValueError(
                f"scheme {scheme.name} learns from no reward; use 'rlo:reward=validation'"
            )
        scheme.hear(torch.as_tensor(value, dtype=torch.float32, device=self.weights.device))

    def _total(self, groups: Tensor, weights: Tensor) -> Tensor:
        if groups.dtype is not torch.float32:
            # bf16 would round a weight of 1.003 to 1.
            groups = groups if groups.dtype is torch.float64 else groups.float()
            weights = weights.to(groups.dtype)
        if self._learned:
            scheme = cast(LearnedScheme, self.scheme)
            if self._whole:
                return scheme.weigh(groups)
            return scheme.weigh(groups[: self.num_groups]) + groups[self.num_groups :].sum()
        return torch.dot(weights, groups)

    @torch.no_grad()
    def _renew(self, current: Moments, before: Moments) -> None:
        """Ask the scheme for weights after an interval, and set them."""
        proposal = self.scheme.propose(current, before)
        if proposal.shape != self.weights.shape:
            raise ValueError(
                f"scheme {self.scheme.name!r} proposed weights of shape {tuple(proposal.shape)} "
                f"for {self.num_groups} groups; return a tensor of shape ({self.num_groups},)"
            )
        if self._learned or self.scheme.fixed:
            self.weights.copy_(proposal)
        else:
            weights, sound = self._scaled(proposal, current)
            usable = sound & is_finite(weights).all()
            torch.where(usable, weights, self.weights, out=self.weights)
            self.rejected += ~sound

    def _scaled(self, proposal: Tensor, current: Moments) -> tuple[Tensor, Tensor]:
        """Weights [n], and whether the proposal could be used."""
        if current.pooled is None:
            return scale_levels(proposal, current.mean, self.normalize)
        calls = self.accumulate * world_size(self._ranks)
        return scale_positives(proposal, current.pooled, calls, self.normalize, self.clip)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LossBalancer:
        """Move, but never change dtype: a model cast to half precision keeps exact weights."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        cast(Callable[..., Any], super()._apply)(move, recurse)
        self._join()
        return self

    def get_extra_state(self) -> Tensor:
        """Host counters, and the scheme and the kind of groups, as int64, for `state_dict`."""
        clock = self._clock
        header = [self.num_groups, clock.calls, clock.phase, clock.intervals]
        short = [-1, clock.short, clock.shortfall]
        return torch.tensor(header + list(self._label.encode()) + short, device="cpu")

    @property
    def _label(self) -> str:
        return self.scheme.name if self._whole else f"{self.scheme.name} by {self.by}"

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        codes = cast(list[int], state.tolist())
        short = codes[-2:] if -1 in codes else []  # an older state may be without
        self._clock = Clock(*codes[1:4], *short)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse a state of another scheme or other groups before anything is overwritten."""
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None:
            codes = cast(list[int], saved.tolist())
            label = bytes(codes[4 : codes.index(-1) if -1 in codes else None]).decode()
            if codes[0] != self.num_groups or label != self._label:
                raise ValueError(
                    f"the saved balancer has {codes[0]} groups and scheme {label!r}, this one "
                    f"{self.num_groups} groups and scheme {self._label!r}; "
                    "make it with the saved settings, or start without its state"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _copy_buffers(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Averages of models write into the tensors of a state, which would mix old and new records."""
    for name in [prefix + name for name, _ in module.named_buffers()]:
        if name in state:  # not those that are made anew from others
            state[name] = state[name].clone()
