"""Suggests options to begin with on a data set, by simple rules, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.inspection.levels import Assigned, assign_objects
from scalewise.lab.training.reach import SURE, Reach

SCALES = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25)  # anchor scales that are tried
CROWDED = 0.8  # with this share of the objects on one level, other anchor scales are tried
GAIN = 0.2  # another scale must lower the share of the fullest level by at least this
ALIKE = 0.05  # a scale whose fullest level has no more than this above the best is as good
LOSS = 0.01  # share of the objects that may lose all their positives with another scale
UNEVEN = 3.0  # ratio of positives between two groups from which on weights are worth it
ENOUGH = 20  # a group with fewer objects has no say in the advice
SELDOM = 0.01  # a size with a smaller share of the objects has no say: it hardly changes AP
_TRIED_ON = 500  # objects that the anchor scales are tried on, about


@dataclass(frozen=True)
class Group:
    """The number of objects and positives of a class, a size or a level.

    Attributes:
        name: Name of the group.
        objects: Objects in the whole split. For a level: objects in the sample of images that get
            most of their positives on this level.
        sampled: Objects in the sample of images.
        positives: Positives in the sample of images.
    """

    name: str
    objects: int
    sampled: int
    positives: int

    @property
    def each(self) -> float:
        """Positives per object; NaN if the sample has no object of the group."""
        return self.positives / self.sampled if self.sampled else math.nan

    @property
    def expected(self) -> float:
        """Estimated positives in one pass over the split; 0 if the sample has no object."""
        return self.each * self.objects if self.sampled else 0.0


@dataclass(frozen=True)
class Advice:
    """Options to begin with.

    Attributes:
        size: Value for `--size`, in pixels.
        anchor_scale: Value for `--anchor_scale`.
        by: Value for `--by`.
        reasons: A sentence for each of the three options.
    """

    size: int
    anchor_scale: float
    by: str
    reasons: tuple[str, str, str]

    @property
    def words(self) -> str:
        """The options as one types them."""
        return f"--size {self.size} --anchor_scale {self.anchor_scale:g} --by {self.by}"


def advise(
    small: Reach,
    records: Sequence[ImageRecord],
    detector: str,
    anchor_scale: float,
    groups: Mapping[str, Sequence[Group]],
) -> Advice:
    """Suggest options to begin with, by the rules in docs/inspect.md.

    Args:
        small: How small the objects get at the size that was asked for.
        records: A sample of images.
        detector: "atss", "fcos" or "retinanet".
        anchor_scale: The anchor scale that was asked for.
        groups: The groups of the whole split, by "class" and "size".
    """
    size, why_size = _size(small, records)
    scale, why_scale = _anchor_scale(_some(records), size, detector, anchor_scale)
    by, why_by = _by(groups)
    return Advice(size, scale, by, (why_size, why_scale, why_by))


def _size(small: Reach, records: Sequence[ImageRecord]) -> tuple[int, str]:
    own = 32 * int(np.ceil(np.median([max(r.width, r.height) for r in records]) / 32))
    wanted = (
        f"from {small.enough} on, the shorter side of 99 % of the objects is over {SURE:g} pixels, "
        "the finest stride"
    )
    if small.enough <= small.size:
        return small.size, f"--size {small.size} is enough: {wanted}."
    if own <= small.size:
        return small.size, (
            f"--size {small.size} stays: {wanted}, but the images themselves have {own} pixels or "
            "fewer, so a larger size would only blow them up."
        )
    if own < small.enough:
        return own, f"--size {own}: {wanted}, and the images themselves have {own} pixels."
    return small.enough, f"--size {small.enough}: {wanted}."


def _anchor_scale(
    records: Sequence[ImageRecord], size: int, detector: str, scale: float
) -> tuple[float, str]:
    now = assign_objects(records, size, detector, scale)
    share, level = _fullest(now)
    part = f"{level} holds {100 * share:.0f} % of {len(now.labels)} objects tried"
    where = f"at --size {size} and --anchor_scale {scale:g}, {part}"
    if share < CROWDED:
        return scale, f"--anchor_scale {scale:g} stays: {where}, so the levels share them."
    tried = {other: assign_objects(records, size, detector, other) for other in SCALES}
    without = float((now.level < 0).mean())
    spread = {
        other: _fullest(found)
        for other, found in tried.items()
        if (found.level < 0).mean() <= without + LOSS
    }
    least = min((other for other, _ in spread.values()), default=share)
    if share - least < GAIN:
        return scale, (
            f"--anchor_scale {scale:g} stays: {where}, and no other scale spreads them much better."
        )
    alike = [other for other, (most, _) in spread.items() if most <= least + ALIKE]
    best = min(alike, key=lambda other: abs(math.log(other / scale)))
    left, lowest = spread[best]
    return best, (
        f"--anchor_scale {best:g}: {where}; with {best:g} the fullest level, {lowest}, "
        f"holds {100 * left:.0f} %."
    )


def _some(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Some images, spread over a sample, with a few hundred objects together."""
    objects = sum(int((~record.crowd).sum()) for record in records)
    return list(records[:: max(1, math.ceil(objects / _TRIED_ON))])


def _fullest(found: Assigned) -> tuple[float, str]:
    """The level with the most objects: its share of all objects, and its name."""
    names = level_names()
    counts = np.bincount(found.level[found.level >= 0], minlength=len(names))
    if not counts.any():
        return 0.0, names[0]
    return float(counts.max() / counts.sum()), names[int(counts.argmax())]


def unevenness(groups: Sequence[Group], share: float = 0.0) -> tuple[float, str, str]:
    """The ratio of positives between the groups with the most and the fewest, and their names.

    Args:
        groups: The groups; those with fewer than 20 objects are left out.
        share: Groups with a smaller share (0..1) of all objects are left out too.

    Returns:
        The ratio, and the names of the groups with the most and the fewest positives; 1 and empty
        names if fewer than two groups are left.
    """
    few = max(float(ENOUGH), share * sum(g.objects for g in groups))
    known = [g for g in groups if g.objects >= few and g.sampled]
    if len(known) < 2:
        return 1.0, "", ""
    known.sort(key=lambda g: g.expected)
    return known[-1].expected / max(1.0, known[0].expected), known[-1].name, known[0].name


def _by(groups: Mapping[str, Sequence[Group]]) -> tuple[str, str]:
    ratios = {"class": unevenness(groups["class"]), "size": unevenness(groups["size"], SELDOM)}
    by = max(ratios, key=lambda name: ratios[name][0])
    times, most, least = ratios[by]
    few = [g.name for g in groups["class"] if g.objects < ENOUGH]
    note = f" Left out, under {ENOUGH} objects: {', '.join(map(repr, few[:5]))}" if few else ""
    note += (f" and {len(few) - 5} more." if len(few) > 5 else ".") if few else ""
    if times < UNEVEN:
        return "class", (
            f"--by class, the default: neither classes nor sizes differ {UNEVEN:g}-fold in "
            f"positives, so weights have little to even out; compare with --scheme equal.{note}"
        )
    other, many = ("size", "sizes") if by == "class" else ("class", "classes")
    return by, (
        f"--by {by}: {most!r} gets {times:.3g} times the positives of {least!r}; the largest ratio "
        f"between two {many} is {ratios[other][0]:.1f}.{note}"
    )
