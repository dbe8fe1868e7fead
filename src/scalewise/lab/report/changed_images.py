"""Finds the images in which runs differ most, by the objects they found and missed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from scalewise.errors import UserError
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import check_detections
from scalewise.lab.evaluation.judged import Judged, judge
from scalewise.lab.evaluation.ranking import best_thresholds
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.report.subjects import ReportRun
from scalewise.lab.training.grouping import make_grouping
from scalewise.weighting import by_class

RARE = 0.5  # a group is rare with fewer objects than this part of the groups' mean


@dataclass(frozen=True)
class ObjectGroups:
    """The groups that the objects of a split belong to.

    Attributes:
        names: Names of the groups.
        ids: For each image id, the group of each object, int [k].
        counts: int [groups], objects of each group, without crowd regions.
        rare: Index of the group with the fewest objects if it is rare, else None.
    """

    names: Sequence[str]
    ids: dict[int, npt.NDArray[np.integer]]
    counts: npt.NDArray[np.integer]
    rare: int | None


def group_objects(run: ReportRun, training: Split, split: Split) -> ObjectGroups:
    """The groups that the run weighs; classes if it weighs levels, since objects have no level."""
    grouping = make_grouping(run.config, training)
    if grouping is None or grouping.group_of is None:
        grouping = by_class(split.classes)
    group_of = grouping.group_of
    assert group_of is not None
    ids = {
        record.image_id: group_of(
            torch.from_numpy(record.boxes), torch.from_numpy(record.labels)
        ).numpy()
        for record in split.records
    }
    counts = np.zeros(len(grouping.names), int)
    for record in split.records:
        np.add.at(counts, ids[record.image_id][~record.crowd], 1)
    there = np.flatnonzero(counts)
    fewest = int(there[counts[there].argmin()]) if len(there) else 0
    rare = len(there) > 1 and counts[fewest] < RARE * counts[there].mean()
    return ObjectGroups(grouping.names, ids, counts, fewest if rare else None)


def chosen(judged: Sequence[Sequence[Judged]], groups: ObjectGroups, count: int) -> list[int]:
    """Indices of the images in which the runs differ most, the most different first.

    An image is scored by the objects that some runs found and others missed (for one run: those
    that it missed). Each counts 1 / (number of objects of its group).

    Args:
        judged: For each run, an entry for each image.
        groups: The groups of the objects.
        count: Largest number of images.
    """
    differences = []
    for images in zip(*judged, strict=True):
        record = images[0].record
        missed = np.zeros((len(images), len(record.boxes)), dtype=bool)
        for row, image in zip(missed, images, strict=True):
            row[image.missed] = True
        differing = missed.any(0) & ~missed.all(0) if len(images) > 1 else missed[0]
        counted = groups.ids[record.image_id][differing]
        differences.append(math.fsum(1 / groups.counts[counted]))
    order = np.argsort(-np.array(differences), kind="stable")
    return [int(place) for place in order[:count]]


def judged_run(title: str, run: ReportRun, split: Split) -> list[Judged]:
    """Match a run's detections, each class from the score at which its F1 is best.

    Args:
        title: Name of the run, for errors.
        run: A run with a `detections.parquet`.
        split: The split that it was validated on.

    Raises:
        UserError: the detections belong to other images or classes.
    """
    found = read_detections(run.folder / "detections.parquet")
    classes = run.environment.get("classes") or split.classes
    try:
        check_detections(split, found)
    except ValueError as error:
        raise UserError(f"{title}: its detections belong to other images: {error}") from None
    if list(classes) != list(split.classes):
        raise UserError(f"{title} was trained on other classes than {split.source} has now")
    try:
        least = np.array([threshold.score for threshold in best_thresholds(split, found)])
    except UserError:  # no detection is right at any score
        least = np.full(len(split.classes), np.inf)
    return judge(split, found, least)
