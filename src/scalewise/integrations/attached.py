"""What `attach` leaves in a model: the balancers and the losses of the groups they weighed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scalewise.integrations.options import AttachError
from scalewise.weighting import LossBalancer

Function = TypeVar("Function", bound=Callable[..., Any])
NAME = "scalewise"  # name of the submodule; its keys in the model's state start with it


def uncompiled(function: Function) -> Function:
    """Run a function outside of `torch.compile`, which would leave out the counting of steps.

    Examples:
        >>> from scalewise.integrations.attached import uncompiled
        >>> uncompiled(len)([1, 2])
        2
    """
    return cast(Function, cast(Any, torch.compiler.disable)(function))


class AttachedBalancer(nn.Module):
    """Weighs a model's losses by group; a submodule of the model, saved and moved with it.

    Args:
        balancers: one for each set of groups, by name, such as "dense", or "rpn" and "roi".

    Attributes:
        balancers: as given; `attached["rpn"]` is short for one of them.
        group_losses: the last unweighted losses, detached, under the model's own name of each loss:
            [n] for whole levels; [n + 1] for groups of positives, with the background last.

    Examples:
        >>> import torchvision
        >>> import scalewise as sw
        >>> model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        ...     weights=None, weights_backbone=None, num_classes=3
        ... )
        >>> attached = sw.attach(model, scheme="class:dog=2", classes=["cat", "dog"])
        >>> attached.weights
        {'dense': tensor([1., 2.])}
        >>> attached["dense"].names
        ('cat', 'dog')
    """

    wiring: Any  # set by `attach`: what it changed in the model

    def __init__(self, balancers: Mapping[str, LossBalancer]) -> None:
        super().__init__()
        self.balancers = nn.ModuleDict(dict(balancers))
        self.group_losses: dict[str, Tensor] = {}
        cast(Any, self).register_load_state_dict_pre_hook(_keep_own_state)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The current weights: float32 [n] for each set of groups."""
        return {name: self[name].weights for name in self.balancers}

    def __getitem__(self, name: str) -> LossBalancer:
        """The balancer of a set of groups."""
        return cast(LossBalancer, self.balancers[name])

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse `torch.jit.script`, which calls this first: it cannot read the model's hooks."""
        raise AttachError(
            "torch.jit.script cannot compile the hooks that sw.attach put into this model; call "
            "sw.detach(model) first, on a copy of the model if training goes on"
        )

    @uncompiled
    def weigh(
        self, name: str, losses: Mapping[str, Tensor], positives: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weigh one set's losses, and record them.

        Args:
            name: name of the set of groups.
            losses: floating [n] under the model's name of each loss; [n + 1] for groups of
                positives, where the last entry is what is in no group.
            positives: number of positives of each group, floating [n]; None for whole levels.

        Returns:
            Scalars under the same names: the weighted sums over the groups.
        """
        balancer = self[name]
        # copied, because recording may change the weights before the backward pass
        weights = F.pad(balancer.weights, (0, 0 if positives is None else 1), value=1.0).clone()
        detached = {key: groups.detach() for key, groups in losses.items()}
        self.group_losses.update(detached)
        balancer(torch.stack([groups.float() for groups in detached.values()]).sum(0), positives)
        return {key: (groups * weights.to(groups.dtype)).sum() for key, groups in losses.items()}


def _keep_own_state(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Keep the present weighting state if the checkpoint was saved before `attach`."""
    if any(key.startswith(prefix) for key in state):
        return
    state.update(module.state_dict(prefix=prefix))
    warnings.warn(
        f"the checkpoint has no {prefix}* entries, so it was saved before attaching; the weights "
        "stay as they are now",
        stacklevel=2,
    )


def drop_state(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Leave out the weights of a checkpoint if the model has none now."""
    if NAME not in module._modules:
        for key in [key for key in state if key.startswith(f"{prefix}{NAME}.")]:
            del state[key]
