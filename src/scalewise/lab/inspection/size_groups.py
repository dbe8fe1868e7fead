"""Counts objects and positives by class and by size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scalewise.lab.data.split import Split
from scalewise.lab.inspection.advice import Group
from scalewise.lab.inspection.levels import Assigned
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.grouping import make_grouping
from scalewise.weighting import Grouping

GroupOfArrays = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], Any]


def count_by_class(split: Split, sampled: Assigned) -> tuple[Group, ...]:
    """Objects and positives of each class, without crowd regions."""
    objects = np.zeros(len(split.classes), np.int64)
    for record in split.records:
        objects += np.bincount(record.labels[~record.crowd], minlength=len(objects))
    return _counted(split.classes, objects, sampled.labels, sampled)


def size_groups(split: Split, edges: str) -> GroupOfArrays:
    """Make a function that gives each object its size group, from its box and label.

    Returns:
        A function of boxes, float32 [k, 4], and labels, int64 [k]; it returns the index of each
        object's group, int64 [k].

    Raises:
        UsageError: for edges that cannot be used.
    """
    group_of = _sizes(split, edges).group_of
    assert group_of is not None

    def group(boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Any:
        return group_of(torch.from_numpy(boxes), torch.from_numpy(labels)).numpy()

    return group


def _sizes(split: Split, edges: str) -> Grouping:
    found = make_grouping(TrainConfig(by="size", size_edges=edges), split)
    assert found is not None
    return found


def count_by_size(split: Split, sampled: Assigned, edges: str) -> tuple[Group, ...]:
    """Objects and positives of each size group, without crowd regions."""
    group, names = size_groups(split, edges), _sizes(split, edges).names
    objects = np.zeros(len(names), np.int64)
    for record in split.records:
        kept = ~record.crowd
        objects += np.bincount(group(record.boxes[kept], record.labels[kept]), minlength=len(names))
    return _counted(names, objects, group(sampled.boxes, sampled.labels), sampled)


def _counted(
    names: Sequence[str],
    objects: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    sampled: Assigned,
) -> tuple[Group, ...]:
    positives = np.zeros(len(names), np.int64)
    np.add.at(positives, ids, sampled.positives.sum(1))
    seen = np.bincount(ids, minlength=len(names))
    return tuple(
        Group(name, *map(int, counts))
        for name, *counts in zip(names, objects, seen, positives, strict=True)
    )
