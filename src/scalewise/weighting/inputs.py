"""What a balancer refuses: settings out of range, and losses that do not fit it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_settings(
    names: Sequence[str],
    by: str,
    interval: int | str,
    normalize: str,
    accumulate: int,
    guard: float | None,
    clip: tuple[float, float],
    memory: float,
    objects: Sequence[float] | None,
) -> None:
    """Check the arguments of `LossBalancer`.

    Raises:
        ValueError: one is out of range.
    """
    for name, value in (
        ("groups", len(names)),
        ("interval", 1 if isinstance(interval, str) else interval),
        ("accumulate", accumulate),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    known = ["auto", "mean", "loss", *([] if by == "level" else ["positives", "lift"])]
    if normalize not in known:
        raise ValueError(
            f"normalize must be one of {', '.join(map(repr, known))} by {by}, got {normalize!r}"
        )
    if guard is not None and not guard > 1:
        raise ValueError(f"guard must be above 1, or None to keep all values; got {guard}")
    if not 0 <= clip[0] <= 1 <= clip[1]:
        raise ValueError(f"clip must hold 1 and nothing below 0, got {clip}")
    if not 0 <= memory < 1:
        raise ValueError(f"memory must lie in 0..1 without 1, got {memory}")
    if len(set(names)) < len(names):
        raise ValueError(f"each group needs a name of its own, got {names}")
    if objects is not None and len(objects) != len(names):
        raise ValueError(f"{len(objects)} numbers of objects for {len(names)} groups")


def stack_losses(losses: Sequence[Tensor], groups: int) -> Tensor:
    """Losses [n] from n scalars.

    Raises:
        ValueError: they are not n, or no scalar tensors.
    """
    losses = list(losses)
    if len(losses) != groups:
        raise _mismatch(f"{len(losses)} losses", groups)
    for group, loss in enumerate(losses):
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            what = (
                f"a tensor of shape {tuple(loss.shape)}"
                if isinstance(loss, Tensor)
                else f"a {type(loss).__name__}"
            )
            raise ValueError(f"the loss of group {group} is {what}; pass a scalar tensor each")
    return torch.stack(losses)


def misfit(losses: Tensor, weights: Tensor) -> ValueError:
    """The error for losses of another shape than the weights [n], or on another device."""
    if losses.shape != weights.shape:
        return _mismatch(f"a tensor of shape {tuple(losses.shape)}", len(weights))
    return ValueError(
        f"the losses are on {losses.device}, the balancer on {weights.device}; "
        f"move it: balancer.to({str(losses.device)!r})"
    )


def _mismatch(got: str, groups: int) -> ValueError:
    return ValueError(
        f"this balancer has {groups} groups but got {got}; pass a tensor of shape "
        f"({groups},) or {groups} scalars, or make the balancer with the "
        "model's number of groups"
    )
