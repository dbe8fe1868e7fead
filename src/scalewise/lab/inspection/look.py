"""Collects all findings about a data set before training in one object."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scalewise.lab.data.faults import BadData, format_counts
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.open import open_split
from scalewise.lab.data.split import Split
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.inspection.advice import SELDOM, Advice, Group, advise, unevenness
from scalewise.lab.inspection.labels import PLACES, Doubt, doubtful
from scalewise.lab.inspection.levels import (
    Assigned,
    LevelRange,
    assign_objects,
    fitted,
    level_ranges,
)
from scalewise.lab.inspection.size_groups import count_by_class, count_by_size
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.reach import PAIRS, Reach, anchor_count, reach

MOST_IMAGES = 5000  # images whose positives are counted, at most


@dataclass(frozen=True)
class Inspection:
    """The findings about a data set.

    Attributes:
        config: The options of the inspection.
        split: The part of the data that could be read.
        refused: Why `scalewise train` would stop at these data without --skip-bad; empty if it
            would not.
        small: How small the objects get at this size.
        sides: float64 [n], square root of each object's area in pixels after resizing.
        ranges: The sides of squares that each level trains on most.
        sampled: What the assigner does with a sample of the images.
        groups: Groups of objects, by "class", "size" and "level".
        doubts: Labels that may be mistakes.
        advice: Options to begin with.
    """

    config: TrainConfig
    split: Split
    refused: str
    small: Reach
    sides: npt.NDArray[np.float64]
    ranges: tuple[LevelRange, ...]
    sampled: Assigned
    groups: dict[str, tuple[Group, ...]]
    doubts: tuple[Doubt, ...]
    advice: Advice

    @property
    def title(self) -> str:
        """The data set and the options of the inspection, in one line."""
        config = self.config
        return (
            f"{config.data}, {self.split.name}, with {config.detector} at --size {config.size} "
            f"and --anchor_scale {config.anchor_scale:g}"
        )

    @property
    def metrics(self) -> dict[str, Any]:
        """The findings by name, as values that JSON can hold."""
        return {
            "images": len(self.split.records),
            "objects": self.small.objects,
            "under_one_pixel": self.small.under_one,
            "under_four_pixels": self.small.under_four,
            "images_sampled": self.sampled.images,
            "objects_sampled": len(self.sampled.labels),
            "without_positive": int((self.sampled.level < 0).sum()),
            "groups": {
                by: {g.name: {"objects": g.objects, "positives": g.expected} for g in groups}
                for by, groups in self.groups.items()
            },
            "unevenness": {
                "class": unevenness(self.groups["class"])[0],
                "size": unevenness(self.groups["size"], SELDOM)[0],
            },
            "doubts": {doubt.what: doubt.count for doubt in self.doubts},
            "advice": {
                "size": self.advice.size,
                "anchor_scale": self.advice.anchor_scale,
                "by": self.advice.by,
            },
        }


def look_at(
    config: TrainConfig, advance: Callable[[int, int], None] = lambda done, total: None
) -> Inspection:
    """Inspect a data set. Reads annotations and image headers, but no pixels.

    Args:
        config: The options `data`, `train_split`, `size`, `detector`, `anchor_scale` and
            `size_edges` are used.
        advance: Called with the number of images that are done and of all images, while positives
            are counted.

    Raises:
        UserError: for size edges that cannot be used, or if nothing of the data can be read.

    Examples:
        >>> from scalewise.lab.inspection.look import look_at
        >>> from scalewise.lab.training.config import TrainConfig
        >>> found = look_at(TrainConfig(data="demo:images=10,size=64", size=64))
        >>> found.metrics["images"], len(found.groups["class"])
        (10, 5)
    """
    split, refused = _opened(config)
    how = (config.size, config.detector, config.anchor_scale)
    sample = _sample(split.records, config)
    done = 0

    def tell(images: int) -> None:
        nonlocal done
        done += images
        advance(done, len(sample))

    sampled = assign_objects(sample, *how, tell)
    groups = {
        "class": count_by_class(split, sampled),
        "size": count_by_size(split, sampled, config.size_edges),
        "level": _by_level(sampled),
    }
    small = reach(split, *how)
    return Inspection(
        config=config,
        split=split,
        refused=refused,
        small=small,
        sides=_sides(split.records, config.size),
        ranges=level_ranges(*how),
        sampled=sampled,
        groups=groups,
        doubts=(*_faults(split), *doubtful(split)),
        advice=advise(small, sample, config.detector, config.anchor_scale, groups),
    )


def _opened(config: TrainConfig) -> tuple[Split, str]:
    """What can be read of the data, and why training would stop there (empty if it would not)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is left out is shown with the doubtful labels
        try:
            return open_split(config.data, config.train_split), ""
        except BadData as error:
            try:
                return open_split(config.data, config.train_split, skip_bad=True), str(error)
            except BadData:
                raise error from None


def _sample(records: Sequence[ImageRecord], config: TrainConfig) -> list[ImageRecord]:
    """A random sample of the images, small enough for seconds of work, in their order."""
    anchors = anchor_count(config.size, config.detector)
    order = np.random.default_rng(0).permutation(len(records))[:MOST_IMAGES]
    objects = np.cumsum([int((~records[i].crowd).sum()) for i in order])
    count = max(1, int((objects * anchors <= PAIRS).sum()))
    return [records[i] for i in sorted(order[:count])]


def _faults(split: Split) -> tuple[Doubt, ...]:
    if not split.skipped:
        return ()
    what = f"left out on reading: {format_counts(split.skipped_counts)}"
    return (Doubt(what, len(split.skipped), tuple(split.skipped[:PLACES])),)


def _sides(records: Sequence[ImageRecord], size: int) -> npt.NDArray[np.float64]:
    parts = [fitted(record, size) for record in records]
    boxes = np.concatenate([*parts, np.zeros((0, 4), np.float32)]).astype(np.float64)
    sides: npt.NDArray[np.float64] = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return sides


def _by_level(sampled: Assigned) -> tuple[Group, ...]:
    names = level_names()
    objects = np.bincount(sampled.level[sampled.level >= 0], minlength=len(names))
    return tuple(
        Group(name, int(count), int(count), int(own))
        for name, count, own in zip(names, objects, sampled.positives.sum(0), strict=True)
    )
