"""Sums up a replay, and compares it with the same losses in random order."""

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
        spread: Standard deviation of a group's weight over the intervals; the mean over all groups.
        persistence: Correlation of a group's weight with its own weight one interval before; the
            mean over the groups whose weights change; NaN if none does.
    """

    jump: float
    spread: float
    persistence: float


@dataclass(frozen=True)
class ReplaySummary:
    """The summary of one replay, over the weights that the scheme chose, without the initial ones.

    Attributes:
        replayed: The replay.
        mean: float [groups], mean weight.
        low: float [groups], lowest weight.
        high: float [groups], highest weight.
        far: Share of the weights that are below 1/2 or above 2, in 0..1.
        share: float [groups], each group's share of the weighted loss over all rows, in 0..1.
        actions: How often each action was drawn.
        motion: How the weights move.
        shuffled: How the weights move with the same losses in random orders.
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
    """Sum up a replay.

    Args:
        losses: float [rows, groups], the replayed losses; values that are not finite are left out.
        replayed: The replay of these losses.
        shuffled: Replays of the same rows in random orders.
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
    """Index of the interval that each row belongs to, int64 [rows]."""
    return np.searchsorted(replayed.starts, np.arange(rows), side="right") - 1


def loss_share(losses: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Each group's share of the total loss, float [groups] in 0..1; NaN if the total is 0.

    Args:
        losses: float [rows, groups]; values that are not finite are left out.
        weights: float [rows, groups], or one number for all.
    """
    parts: np.ndarray = np.where(np.isfinite(losses), losses, 0).astype(np.float64) * weights
    total = parts.sum()
    share: np.ndarray = parts.sum(0) / (total if total else np.nan)
    return share


def motion(weights: np.ndarray) -> Motion:
    """How weights, float [intervals, groups], move; all NaN for fewer than two intervals."""
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
