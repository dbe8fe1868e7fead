"""Makes the groups that are weighed, from options and a training split."""

from __future__ import annotations

import numpy as np
import torch

from scalewise.errors import UsageError
from scalewise.lab.data.split import Split
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.training.config import TrainConfig
from scalewise.weighting import Grouping, by_class, by_level, by_size, product
from scalewise.weighting.groups import COCO_EDGES


def make_grouping(config: TrainConfig, training: Split) -> Grouping | None:
    """The grouping that `--by` names; None for whole levels.

    Raises:
        UsageError: for edges that cannot be used.
    """
    if config.by == "level":
        return None
    if config.by == "level-positives":
        return by_level(level_names())
    if config.by == "class":
        return by_class(training.classes)
    try:
        sizes = by_size(size_edges(config.size_edges, training))
    except ValueError as error:
        raise UsageError(f"--size_edges {config.size_edges}: {error}") from None
    return sizes if config.by == "size" else product(sizes, by_class(training.classes))


def size_edges(words: str, training: Split) -> tuple[float, ...]:
    """The sides that separate the sizes, in pixels of the original images.

    Args:
        words: "coco", "thirds" (each size gets a third of the training objects), or numbers
            separated by commas.
        training: the split whose objects "thirds" counts.

    Raises:
        UsageError: the words are none of these.
    """
    if words == "coco":
        return COCO_EDGES
    if words == "thirds":
        sides = [
            np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
            for record in training.records
            for boxes in (record.boxes[~record.crowd],)
        ]
        low, high = np.quantile(np.concatenate(sides), (1 / 3, 2 / 3))
        return float(low), float(high)
    try:
        return tuple(float(word) for word in words.split(","))
    except ValueError:
        raise UsageError(
            f"--size_edges {words}: give 'coco', 'thirds', or sides in pixels such as 32,96"
        ) from None


def count_objects(grouping: Grouping, training: Split) -> list[int] | None:
    """Number of objects of each group in the training split; crowd regions do not count.

    None if groups are levels.
    """
    if grouping.group_of is None:
        return None
    counts = torch.zeros(len(grouping.names), dtype=torch.int64)
    for record in training.records:
        kept = ~record.crowd
        boxes, labels = record.boxes[kept], record.labels[kept]
        ids = grouping.group_of(torch.from_numpy(boxes), torch.from_numpy(labels))
        counts += torch.bincount(ids, minlength=len(counts))
    found: list[int] = counts.tolist()
    return found
