"""Ranks detections by score, and finds the score at which F1 is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalewise.errors import UserError
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.matching import Matches, matched


@dataclass(frozen=True)
class Ranking:
    """Matched detections with their scores, class by class, best score of a class first.

    Attributes:
        matches: matches of d detections.
        scores: float64 [d], in the order of `matches`.
    """

    matches: Matches
    scores: npt.NDArray[np.float64]

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Which detections count at an IoU of 0.5, so are not on a crowd region: bool [d]."""
        counted: npt.NDArray[np.bool_] = self.matches.states[:, 0] >= 0
        return counted

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which detections found an object at an IoU of 0.5: bool [d]."""
        right: npt.NDArray[np.bool_] = self.matches.states[:, 0] == 1
        return right


@dataclass(frozen=True)
class ClassThreshold:
    """The lowest score at which detections of a class are kept.

    Attributes:
        name: name of the class.
        score: a float32 value; detections with exactly this score are kept too.
        f1: F1 of the class with this threshold, IoU 0.5; NaN where the class has no object.
        own: True if F1 of this class is best at the score; False if the score is that of all
            classes together.
    """

    name: str
    score: float
    f1: float
    own: bool


def rank(split: Split, found: Sequence[ImageDetections]) -> Ranking:
    """Match detections, at most 100 per image, and keep their scores beside the matches."""
    matches = matched(split, found)
    scores = np.concatenate([np.zeros(0), *(image.scores for image in found)])
    labels = np.concatenate([np.zeros(0), *(image.labels for image in found)])
    return Ranking(matches, scores[np.lexsort((-scores, labels))])


def best_f1(ranking: Ranking, label: int | None = None) -> tuple[float, float, float]:
    """The score at which F1 is best, with precision and recall at this score; IoU 0.5.

    Args:
        ranking: the ranked detections of a split.
        label: index of the class; None for all classes together.

    Returns:
        Score, precision and recall; all NaN if there is no detection. Recall is NaN if there is
        no object.
    """
    order = np.argsort(-ranking.scores, kind="stable")
    order = order[ranking.counted[order]]
    objects = int(ranking.matches.objects.sum())
    if label is not None:
        order = order[ranking.matches.labels[order] == label]
        objects = int(ranking.matches.objects[:, label].sum())
    if not len(order):
        return math.nan, math.nan, math.nan
    scores, true = ranking.scores[order], np.cumsum(ranking.right[order])
    kept = np.arange(1, len(order) + 1)
    last = np.append(scores[1:] < scores[:-1], True)  # equal scores are kept or dropped together
    best = int(np.where(last, 2 * true / (kept + objects), -1).argmax())
    recall = float(true[best] / objects) if objects else math.nan
    return float(scores[best]), float(true[best] / kept[best]), recall


def f1_at(ranking: Ranking, label: int, score: float) -> float:
    """F1 of a class if detections below a score are dropped, IoU 0.5; NaN without an object."""
    objects = int(ranking.matches.objects[:, label].sum())
    if not objects:
        return math.nan
    own = (ranking.matches.labels == label) & ranking.counted & (ranking.scores >= score)
    return float(2 * ranking.right[own].sum() / (own.sum() + objects))


def best_thresholds(split: Split, found: Sequence[ImageDetections]) -> list[ClassThreshold]:
    """For each class, the score at which its F1 is best.

    A class of which no object was found takes the score at which F1 over all classes is best.

    Args:
        split: the images and their objects.
        found: at most 100 detections per image.

    Raises:
        UserError: no object of any class was found.

    Examples:
        >>> import numpy as np
        >>> from scalewise.data import open_split
        >>> from scalewise.lab.evaluation import ImageDetections
        >>> from scalewise.lab.evaluation.ranking import best_thresholds
        >>> split = open_split("demo:images=10,size=64", "val")
        >>> perfect = [
        ...     ImageDetections(r.image_id, r.boxes, np.full(len(r.boxes), 0.5), r.labels, r.labels)
        ...     for r in split.records
        ... ]
        >>> {threshold.score for threshold in best_thresholds(split, perfect)}
        {0.5}
    """
    ranking = rank(split, found)
    overall = best_f1(ranking)
    if not overall[2] > 0:
        raise UserError(
            f"no detection on {split.name} is right at an IoU of 0.5, so no score has a best F1: "
            "name a score instead"
        )
    thresholds = []
    for label, name in enumerate(split.classes):
        score, _, recall = best_f1(ranking, label)
        own = recall > 0
        chosen = score if own else overall[0]
        thresholds.append(ClassThreshold(name, chosen, f1_at(ranking, label, chosen), own))
    return thresholds
