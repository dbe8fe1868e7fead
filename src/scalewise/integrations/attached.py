"""What `attach` leaves in a model: the balancers and the level losses that they weighed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from scalewise.errors import UserError
from scalewise.weighting import LearnedScheme, LossBalancer, Scheme, SchemeLike
from scalewise.weighting.words import as_scheme

NAME = "scalewise"  # of the submodule, and so of its keys in the model's state


class AttachError(UserError, ValueError):
    """A model that cannot be given level weights, with the reason."""


def own_scheme(scheme: SchemeLike) -> Scheme:
    """A scheme for one set of levels of a model that trains as if there were none.

    Raises:
        AttachError: it is none, or trains parameters.
    """
    try:
        own = as_scheme(copy.deepcopy(scheme) if isinstance(scheme, Scheme) else scheme)
    except (ValueError, TypeError) as error:
        raise AttachError(str(error)) from None
    if isinstance(own, LearnedScheme):
        raise AttachError(
            f"{own.name} trains weights by back-propagation through one total loss, which this "
            "model's losses and optimizer know nothing of; choose another scheme"
        )
    return own


class AttachedBalancer(nn.Module):
    """Weighs a model's losses by level; a submodule of the model, saved and moved with it.

    Args:
        balancers: one for each set of levels, by name: "dense", or "rpn" and "roi".

    Attributes:
        balancers: as given; `attached["rpn"]` is short for one of them.
        level_losses: the last unweighted losses, detached, [n] by the model's own name of the loss.
    """

    wiring: Any  # set by `attach`: what it changed in the model

    def __init__(self, balancers: Mapping[str, LossBalancer]) -> None:
        super().__init__()
        self.balancers = nn.ModuleDict(dict(balancers))
        self.level_losses: dict[str, Tensor] = {}
        cast(Any, self).register_load_state_dict_pre_hook(_keep_own_state)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights in force, float32 [n] by set of levels."""
        return {name: self[name].weights for name in self.balancers}

    def __getitem__(self, name: str) -> LossBalancer:
        """The balancer of a set of levels."""
        return cast(LossBalancer, self.balancers[name])

    def weigh(self, name: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weigh one set's losses, and record them.

        Args:
            name: of the set of levels.
            losses: floating [n] by the model's name of the loss.

        Returns:
            Scalars under the same names: the weighted sums over the levels.
        """
        balancer = self[name]
        weights = balancer.weights.clone()  # recording may renew them before the backward pass
        detached = {key: levels.detach() for key, levels in losses.items()}
        self.level_losses.update(detached)
        balancer(torch.stack([levels.float() for levels in detached.values()]).sum(0))
        return {key: (levels * weights.to(levels.dtype)).sum() for key, levels in losses.items()}


def _keep_own_state(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """A checkpoint from before attaching: the weighting state stays what it is."""
    if any(key.startswith(prefix) for key in state):
        return
    state.update(module.state_dict(prefix=prefix))
    warnings.warn(
        f"the checkpoint has no {prefix}* entries, so it was saved without level weights; they go "
        "on from where they are",
        stacklevel=2,
    )


def drop_state(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """A checkpoint saved with level weights, for a model that has none now: leave them out."""
    if NAME not in module._modules:
        for key in [key for key in state if key.startswith(f"{prefix}{NAME}.")]:
            del state[key]
