"""What training loops of other frameworks need: finding balancers, reading and checking them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from scalewise.errors import UserError
from scalewise.weighting import LossBalancer

IGNORED = "_ddp_params_and_buffers_to_ignore"  # what DDP asks the module that it wraps


class LoopError(UserError, ValueError):
    """A training loop whose settings do not fit its balancers, with the reason."""


def find_balancers(module: nn.Module) -> dict[str, LossBalancer]:
    """The balancers of a module by their names as submodules.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.integrations.loops import find_balancers
        >>> model = torch.nn.Module()
        >>> model.balancer = sw.LossBalancer(["cat", "dog"], by="class")
        >>> list(find_balancers(model))
        ['balancer']
    """
    return {name: m for name, m in module.named_modules() if isinstance(m, LossBalancer)}


def readings(balancers: Mapping[str, LossBalancer]) -> dict[str, float]:
    """The values of balancers to log; each balancer costs one copy from the device to the host.

    Args:
        balancers: by name.

    Returns:
        "loss/<group>": the unweighted losses of the last recorded call, if there was one.
        "weight/<group>": the weights from the next call on. A scheme with a policy adds
        "probability/<action>" and "action", the number of the action, -1 in the first interval.
        With several balancers each key starts with the balancer's name and a slash.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.integrations.loops import find_balancers, readings
        >>> model = torch.nn.Module()
        >>> model.balancer = sw.LossBalancer(["cat", "dog"], by="class")
        >>> readings(find_balancers(model))
        {'weight/cat': 1.0, 'weight/dog': 1.0}
    """
    values: dict[str, float] = {}
    for name, balancer in balancers.items():
        prefix = f"{name}/" if len(balancers) > 1 else ""
        names = [f"weight/{group}" for group in balancer.names]
        parts = [balancer.weights]
        if balancer.calls:
            names += [f"loss/{group}" for group in balancer.names]
            parts.append(balancer.last_losses)
        if actions := getattr(balancer.scheme, "action_names", ()):
            scheme = cast(Any, balancer.scheme)
            names += [f"probability/{action}" for action in actions] + ["action"]
            parts += [scheme.probabilities, scheme.action.view(1).float()]
        numbers = torch.cat(parts).tolist()
        values |= {prefix + key: value for key, value in zip(names, numbers, strict=True)}
    return values


def keep_from_broadcast(module: nn.Module) -> None:
    """Tell `DistributedDataParallel` to leave a module's balancers alone.

    Call this before it wraps the module. Else it copies rank 0's buffers to all ranks before each
    forward pass, and so replaces what the other ranks recorded. It still looks after the parameters
    of a scheme (`uncertainty`).

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.integrations.loops import keep_from_broadcast
        >>> model = torch.nn.Module()
        >>> model.balancer = sw.LossBalancer(["cat", "dog"], by="class")
        >>> keep_from_broadcast(model)  # then DistributedDataParallel(model)
        >>> "balancer.weights" in model._ddp_params_and_buffers_to_ignore
        True
    """
    ignored = set(getattr(module, IGNORED, ()))
    for prefix, balancer in find_balancers(module).items():
        ignored |= {name for name, _ in balancer.named_buffers(prefix)}
    setattr(module, IGNORED, sorted(ignored))


def give_back_to_broadcast(module: nn.Module, prefix: str) -> None:
    """Undo `keep_from_broadcast` for the submodule named `prefix`."""
    kept = [name for name in getattr(module, IGNORED, ()) if not name.startswith(f"{prefix}.")]
    setattr(module, IGNORED, kept)
    if not kept:
        delattr(module, IGNORED)


def check_balancers(balancers: Mapping[str, LossBalancer], accumulate: int, option: str) -> None:
    """Refuse balancers that cannot work in a loop.

    Args:
        balancers: by name.
        accumulate: the loop's forward passes per optimizer step.
        option: the loop's name for that number, for the message.

    Raises:
        LoopError: the `accumulate` of one differs, or one was made in half precision.

    Examples:
        >>> import torch
        >>> import scalewise as sw
        >>> from scalewise.integrations.loops import check_balancers, find_balancers
        >>> model = torch.nn.Module()
        >>> model.balancer = sw.LossBalancer(["cat", "dog"], by="class")
        >>> check_balancers(find_balancers(model), 1, "accumulate_grad_batches")  # they fit
    """
    for name, balancer in balancers.items():
        if balancer.accumulate != accumulate:
            raise LoopError(
                f"balancer {name!r} has accumulate={balancer.accumulate}, but {option} is "
                f"{accumulate}; make it with LossBalancer(..., accumulate={accumulate})"
            )
        if balancer.weights.dtype != torch.float32:
            raise LoopError(
                f"balancer {name!r} was made or loaded in {balancer.weights.dtype}, which rounds "
                "its weights; make it after the model was loaded, in float32"
            )
