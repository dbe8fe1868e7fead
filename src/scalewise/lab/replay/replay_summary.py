"""A replay in a few figures, beside what the same losses in random order give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scalewise.lab.replay.feed import Replayed


@dataclass(frozen=True)
class Motion:
    """How the chosen weights move from interval to interval, over all groups.

    Attributes:
        jump: Mean absolute change of a weight from one interval to the next.
        spread: Standard deviation of a group's weight over the intervals, mean over the groups.
        persistence: Correlation of a group's weight with its own one interval before, mean over the
            groups that move; NaN when none does.
    """

    jump: float
    spread: float
    persistence: float


@dataclass(frozen=True)
class ReplaySummary:
    """Figures of one replay; weights are those that the scheme chose, so without the initial ones.

    Attributes:
        replayed: What they are of.
        mean: float [groups], mean weight.
        low: float [groups], lowest.
        high: float [groups], highest.
        far: Share of the weights below 1/2 or above 2.
        share: float [groups], each group's part of the weighted loss over all rows.
        actions: How often each action was drawn.
        motion: Of these losses.
        shuffled: Of the same losses in random orders.
    """

    replayed: Replayed
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    far: float
    share: np.ndarray
    actions: dict[str, int]
    motion: Motion
    shuffled: tuple[Motion, ...]


def summarise(
    losses: np.ndarray, replayed: Replayed, shuffled: Iterable[Replayed]
) -> ReplaySummary:
    """Figures of a replay.

    Args:
        losses: float [rows, groups], what was replayed; values that are not finite are left out.
        replayed: What came of it.
        shuffled: What came of the same rows in other orders.
    """
    chosen = replayed.weights[1:]
    drawn = Counter(action for action in replayed.actions if action is not None)
    return ReplaySummary(
        replayed,
        chosen.mean(0),
        chosen.min(0),
        chosen.max(0),
        float(((chosen < 0.5) | (chosen > 2)).mean()),
        loss_share(losses, replayed.weights[in_force(replayed, len(losses))]),
        {name: drawn[name] for name in replayed.action_names},
        motion(chosen),
        tuple(motion(other.weights[1:]) for other in shuffled),
    )


def in_force(replayed: Replayed, rows: int) -> np.ndarray:
    """The interval of each row, int64 [rows]."""
    return np.searchsorted(replayed.starts, np.arange(rows), side="right") - 1


def loss_share(losses: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Each group's part of the total loss, float [groups]; NaN where the total is 0.

    Args:
        losses: float [rows, groups]; values that are not finite are left out.
        weights: float [rows, groups], or one for all.
    """
    parts: np.ndarray = np.where(np.isfinite(losses), losses, 0).astype(np.float64) * weights
    total = parts.sum()
    share: np.ndarray = parts.sum(0) / (total if total else np.nan)
    return share


def motion(weights: np.ndarray) -> Motion:
    """How weights, float [intervals, groups], move; NaN where there are too few intervals."""
    if len(weights) < 2:
        return Motion(float("nan"), float("nan"), float("nan"))
    centred = weights.astype(np.float64) - weights.mean(0, dtype=np.float64)
    energy = (centred**2).sum(0)
    moving = energy > 1e-10 * len(weights)
    lagged = (centred[1:] * centred[:-1]).sum(0)
    return Motion(
        float(np.abs(np.diff(weights, axis=0)).mean()),
        float(np.sqrt(energy / len(weights)).mean()),
        float((lagged[moving] / energy[moving]).mean()) if moving.any() else float("nan"),
    )
