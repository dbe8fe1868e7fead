"""The module that a training loop calls: it weighs the losses of groups and updates the weights."""

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
from scalewise.weighting.saved_state import SavedState, unpack_state
from scalewise.weighting.scaling import scale_levels, scale_positives
from scalewise.weighting.scheme import LearnedScheme, SchemeLike, give_groups
from scalewise.weighting.words import as_scheme

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

CLIP = (0.25, 8.0)
MEMORY = 0.9


class LossBalancer(GroupHistory):
    """Weighs the losses of a detector's groups, and updates the weights once per interval.

    A group is a whole level with its background (`by="level"`), or the positives of one class, size
    or level. Call the balancer with the losses of the groups in every training step, and
    back-propagate what it returns. Gradients flow to the losses, not to the weights. In eval mode
    or with gradients disabled, losses are weighed but not recorded, and no weight changes.

    Inside `torch.compile` or a CUDA graph the call only weighs and records; call `advance()` once
    after each call, outside of the compiled part and after the backward pass. In eager mode
    `advance()` does nothing, so a loop may always call it.

    No call copies a value from the device to the host, not even at the end of an interval.

    Args:
        groups: number n of groups, at least 1, or their names.
        scheme: words (see `scheme_from_words`), a `Scheme`, or a function that takes two `Moments`,
            current and previous, and returns weights float32 [n]. Default: "avw:invert=true" for
            whole levels, else "avw".
        interval: optimizer steps between two weight updates. "auto" is 100 for whole levels; for
            positives it is a tenth of the steps so far, at least 5 and at most 100, so that the
            weights move early in a training of any length.
        normalize: how the weights are scaled by one factor. "loss" keeps the mean loss as without
            weights; "mean" keeps the mean weight at 1; "positives" keeps the mean weight over the
            positives at 1; "lift" then also raises weights below 1 to 1, so that no group weighs
            less than in plain training. "auto" is "loss" for whole levels, else "lift". Schemes
            with parameters or with given weights are not scaled.
        accumulate: calls per optimizer step; the weights never change between them.
        guard: above 1. A step whose total loss is more than `guard` times the median of the last
            128 steps is left out of the statistics, but not of the loss. None keeps all steps.
        seed: seed of the schemes' random numbers.
        process_group: the ranks that merge their statistics; None is the default group.
        by: "level" for whole levels. Any other word names how positives are grouped ("class",
            "size", "level-positives"); the balancer is then called with their numbers too.
        clip: lowest and highest weight w of a group of positives, before the last scaling. If the
            group is in only a part p of the optimizer's steps, w then becomes `1 + p (w - 1)`.
        memory: 0 to below 1, for the pooled statistics of positives. With each new interval, what
            the earlier ones count is multiplied by this factor.
        objects: number of objects of each group in the training set, for schemes that ask for it.

    Attributes:
        weights: buffer float32 [n], the current weights. At the end of an interval its values are
            overwritten in place: clone it if a backward pass of your own needs it later.
        rejected: buffer int64 scalar, number of proposals that were not finite, had a negative
            weight or only zeros; they did not change the weights.
        scheme: the scheme.
        num_groups: number n of groups.
        names: names of the groups; "level0" or "group0", ... if only their number was given.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `scheme` is none of these types.

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
        # The additional last entry is the weight of the background, always 1.
        self.register_buffer("padded", torch.cat((initial, torch.ones(1))), persistent=False)
        self.register_buffer("weights", self.padded[:-1])
        self.register_buffer("rejected", torch.tensor(0))
        cast(Any, self).register_state_dict_post_hook(_copy_buffers)

    def forward(self, losses: Tensor | Sequence[Tensor], positives: Tensor | None = None) -> Tensor:
        """Weigh the losses of one step.

        Args:
            losses: floating [n], or n floating scalars: the loss of each group, divided by the
                detector's normaliser. For groups of positives also [n + 1]; the last is then the
                loss of the background and of everything else that is in no group. The sum of all
                is the detector's own loss.
            positives: [n], number of positive anchors or locations of each group in this step, on
                the device of the losses. If the detector weighs them by soft targets: the sum of
                these. Needed for groups of positives in training; ignored for whole levels.

        Returns:
            Scalar `sum_i w_i l_i`, where the weight of the background is 1. It is float64 for
            float64 losses, else float32, also under autocast.

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
            # The update may come before the backward pass, which still needs the present weights.
            weights = weights.clone()
        total = self._total(groups, weights)
        self._record(clock, self._row(groups, positives))
        clock.advanced = True
        return total

    def _with_background(self, groups: Tensor, weights: Tensor) -> Tensor:
        """Return the weights for losses [n + 1].

        Raises:
            ValueError: the losses are of another shape or on another device.
        """
        padded = self._buffers["padded"]
        assert padded is not None
        if self._whole or groups.shape != padded.shape or groups.device != padded.device:
            raise misfit(groups, self.weights)
        if weights._base is not padded:  # a load with assign=True has replaced them
            self._join()
            padded = self.padded
        return padded

    def _join(self) -> None:
        """Make `weights` a view of `padded` again."""
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
        """Tell a policy the number that it tries to raise; call this after each validation.

        This may be AP on images that are kept out of training. `RLO(reward="validation")` learns
        from its rise. Do not use the split on which you report results.

        Args:
            value: a number, or a floating scalar tensor.

        Raises:
            ValueError: the scheme does not use such a number.
        """
        scheme = self.scheme
        if not isinstance(scheme, RLO) or scheme.reward != "validation":
            raise ValueError(
                f"scheme {scheme.name} does not use a reward; choose 'rlo:reward=validation'"
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
        """Ask the scheme for weights at the end of an interval, and set them."""
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
        """Scale a proposal; return weights [n], and whether the proposal could be used."""
        if current.pooled is None:
            return scale_levels(proposal, current.mean, self.normalize)
        calls = self.accumulate * world_size(self._ranks)
        return scale_positives(proposal, current.pooled, calls, self.normalize, self.clip)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LossBalancer:
        """Move, but never change the dtype: in a half-precision model the weights stay exact."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        cast(Callable[..., Any], super()._apply)(move, recurse)
        self._join()
        return self

    def get_extra_state(self) -> Tensor:
        """Counters of the host and names of scheme, `by` and groups, as int64 for `state_dict`."""
        clock = self._clock
        counters = (clock.calls, clock.phase, clock.intervals)
        short = (clock.short, clock.shortfall)
        return SavedState(self.num_groups, counters, self._label, short, self.names).pack()

    @property
    def _label(self) -> str:
        return self.scheme.name if self._whole else f"{self.scheme.name} by {self.by}"

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        saved = unpack_state(state)
        self._clock = Clock(*saved.counters, *saved.short)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse a state of another scheme or other groups before anything is overwritten."""
        saved = state_dict.get(f"{prefix}_extra_state")
        if saved is not None:
            unpack_state(saved).require_fits(self._label, self.names)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _copy_buffers(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Copy the tensors of a state: averages of models write into them, but records must not mix."""
    for name in [prefix + name for name, _ in module.named_buffers()]:
        if name in state:  # `padded` is not saved
            state[name] = state[name].clone()
