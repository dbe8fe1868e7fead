"""A run's `metrics.json`: its status, its history, and what became of its groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalewise.lab.training.runs import RunError, load_json, write_json

OF_GROUPS = ("weights", "skipped_not_finite", "skipped_outliers")
_NAMED = 3  # damaged image files


def write_metrics(
    run: Path, status: str, history: list[dict[str, float]], figures: dict[str, Any]
) -> None:
    """Write a new `metrics.json`.

    Args:
        run: The run folder.
        status: "running", "finished", "interrupted" or "diverged".
        history: The validated epochs; the file names the best and the last of them.
        figures: More figures of the run.
    """
    best = max(history, key=lambda e: -1 if math.isnan(e["AP"]) else e["AP"], default=None)
    last = history[-1] if history else None
    write_json(
        run / "metrics.json",
        {"status": status, "best": best, "last": last, **figures, "history": history},
    )


def damaged_images(found: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """How many image files of each split are damaged, and the first of them by name."""
    return {split: {"count": len(names), "first": names[:_NAMED]} for split, names in found.items()}


def figures_of_groups(module: Any) -> dict[str, dict[str, float]]:
    """Weights and counts by the name of the group, for `metrics.json`.

    Losses that were not finite are counted up to the last step; on other ranks only up to the last
    interval.
    """
    balancer = module.balancer
    values = (balancer.weights, balancer.skipped + balancer.skipped_since, balancer.outliers)
    return {
        name: dict(zip(module.detector.group_names, value.tolist(), strict=True))
        for name, value in zip(OF_GROUPS, values, strict=True)
    }


def load_metrics(run: Path) -> dict[str, Any]:
    """Read a run's `metrics.json`, with at least its status and its history.

    Raises:
        RunError: when it is missing or broken, or does not hold these.
    """
    path = run / "metrics.json"
    metrics = load_json(path)
    if not (
        isinstance(metrics, dict)
        and isinstance(metrics.get("status"), str)
        and isinstance(metrics.get("history", []), list)
        and all(map(_is_epoch, metrics.get("history", [])))
        and all(metrics.get(name) is None or _is_epoch(metrics[name]) for name in ("last", "best"))
        and _repeats(metrics)
        and _are_damaged_images(metrics.get("damaged", {}))
    ):
        raise RunError(f"{path} is damaged: it does not hold the figures of a run")
    found: dict[str, Any] = metrics
    return found


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """Read a run's `metrics.json`, also while it is running; None if absent or damaged."""
    try:
        return load_metrics(folder)
    except RunError:
        return None


def is_of(metrics: dict[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether metrics belong to a run. True if they do not say, as in files of older versions.

    Args:
        metrics: Content of `metrics.json`.
        run: Detector, scheme and seed, by these names.
    """
    noted = metrics.get("run")
    return noted is None or (isinstance(noted, dict) and noted == dict(run))


def _repeats(metrics: dict[str, Any]) -> bool:
    """Whether the last epoch's AP is the one in the history; True if one of them is missing."""
    last, history = metrics.get("last"), metrics.get("history")
    if not last or not history or "AP" not in last or "AP" not in history[-1]:
        return True
    return bool(last["AP"] == history[-1]["AP"])


def _is_epoch(value: Any) -> bool:
    return isinstance(value, dict) and all(
        figure is None or isinstance(figure, int | float) for figure in value.values()
    )


def _are_damaged_images(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(split, dict)
        and isinstance(split.get("count"), int)
        and isinstance(split.get("first"), list)
        and all(isinstance(name, str) for name in split["first"])
        for split in value.values()
    )
