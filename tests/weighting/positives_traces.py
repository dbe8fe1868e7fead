"""Losses and positives of a training, with faults, and balancers that get them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scalewise.weighting import LossBalancer

OBJECTS = (5000.0, 300.0, 20.0, 0.0, 1.0, 70.0)


def trace(
    seed: int, steps: int, n: int, faults: list[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Losses float32 and positives [steps, n], with faults; later groups are rarer."""
    rng = np.random.default_rng(seed)
    positives = rng.poisson(30.0 / 4.0 ** np.arange(n), (steps, n))
    fall = np.exp(-rng.uniform(0, 0.01, n)[None] * np.arange(steps)[:, None])
    cost = rng.uniform(0.1, 3, n) * fall * np.exp(rng.normal(0, rng.uniform(0.05, 0.8, n), (1, n)))
    cost = cost * np.exp(rng.normal(0, 0.3, (steps, n)))
    group = rng.integers(n)
    if "constant" in faults:
        cost[:, group] = 0.7
    if "free" in faults:
        cost[:, group] = 0.0
    if "absent" in faults:
        positives[:, rng.integers(n)] = 0
    if "late" in faults:
        positives[: steps // 2, rng.integers(n)] = 0
    if "empty" in faults:
        positives[rng.random(steps) < 0.3] = 0
    losses = positives * cost / positives.sum(1, keepdims=True).clip(1)
    if "stray" in faults:
        losses[:, group] += 1e-3  # also in steps without positives
    if "explosion" in faults:
        losses[rng.random(steps) < 0.05] *= 200
    if "nan" in faults:
        losses[rng.random(steps) < 0.2, group] = np.nan
    if "infinite" in faults:
        losses[rng.random((steps, n)) < 0.05] = np.inf
    return losses.astype(np.float32), positives


def feed(
    balancer: LossBalancer, steps: int, seed: int = 0, start: int = 0, fewest: int = 0
) -> None:
    """Train on a trace; every group has at least `fewest` positives in every step."""
    losses, positives = trace(seed, start + steps, balancer.num_groups, [])
    positives = positives.clip(fewest)
    for row, count in zip(losses[start:], positives[start:], strict=True):
        balancer(torch.from_numpy(row), torch.from_numpy(count))


def of_class(names: int | list[str], scheme: Any, *args: Any, **settings: Any) -> LossBalancer:
    """A balancer by class, with `normalize="positives"` unless given."""
    n = names if isinstance(names, int) else len(names)
    settings = {"objects": [OBJECTS[g % 6] for g in range(n)], "by": "class", **settings}
    if len(args) < 2:
        settings.setdefault("normalize", "positives")
    return LossBalancer(names, scheme, *args, **settings)
