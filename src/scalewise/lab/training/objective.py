"""The metric that a policy tries to raise if it learns from validations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
from scalewise.weighting import LossBalancer

OBJECTIVES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


def check_objective(config: TrainConfig, balancer: LossBalancer, classes: Sequence[str]) -> None:
    """Refuse an unknown objective, and a policy that would learn from the reported split.

    Raises:
        UsageError: the message names the option.
    """
    known = [*OBJECTIVES, *(f"class:{name}" for name in classes)]
    if config.objective not in known:
        raise UsageError(f"--objective {config.objective}: choose one of {', '.join(known)}")
    learns = getattr(balancer.scheme, "reward", None) == "validation"
    if learns and not config.holdout:
        raise UsageError(
            f"--scheme {config.scheme} learns from validation, which must not use the split that "
            "is reported: keep out a part of the training split with --holdout 0.1"
        )
    if config.objective != "AP" and not learns:
        raise UsageError(
            f"--objective {config.objective} is for --scheme rlo:reward=validation; "
            f"{config.scheme} does not learn from validation"
        )


def tell(module: Any, metrics: dict[str, float]) -> None:
    """Hand the objective to a policy that learns from validations."""
    if getattr(module.balancer.scheme, "reward", None) == "validation":
        value = metrics[objective_metric(module.config.objective)]
        if not math.isnan(value):
            module.balancer.reward(value)


def objective_metric(words: str) -> str:
    """The metric that `--objective` names: "class:cat" is "AP/cat"."""
    return f"AP/{words[6:]}" if words.startswith("class:") else words
