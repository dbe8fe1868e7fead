"""Figures of detections besides AP: pooled AP, precision at the best F1, calibration.

It also rescales scores by class after training, as a control: see controls.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq
from scipy.special import expit, logit
from torchmetrics.functional.classification import binary_calibration_error

from scalewise.data import Split
from scalewise.lab.evaluation import ImageDetections, coco_metrics
from scalewise.lab.evaluation.match_curves import average_precision
from scalewise.lab.evaluation.matching import Matches
from scalewise.lab.evaluation.ranking import Ranking, best_f1, rank

Floats = npt.NDArray[np.float64]
Figures = dict[str, float]  # figures of one run, by name
Found = list[ImageDetections]

MOST = 100  # detections per image
BINS = 15


def pooled_ap(ranking: Ranking) -> float:
    """AP with the detections of all classes in one list."""
    matches = ranking.matches
    order = np.argsort(-ranking.scores, kind="stable")
    pooled = Matches(
        image_ids=matches.image_ids,
        objects=matches.objects.sum(axis=1, keepdims=True, dtype=np.int32),
        labels=np.zeros_like(matches.labels),
        images=matches.images[order],
        states=matches.states[order],
    )
    return float(average_precision(pooled, np.ones(len(matches.image_ids), dtype=np.int64))[0])


def calibration_error(ranking: Ranking, label: int) -> float:
    """Expected calibration error of a class's scores; NaN without detections."""
    own = (ranking.matches.labels == label) & ranking.counted
    if not own.any():
        return math.nan
    scores, right = torch.from_numpy(ranking.scores[own]), torch.from_numpy(ranking.right[own])
    return float(binary_calibration_error(scores, right.int(), n_bins=BINS))


def fit_factors(ranking: Ranking, classes: int) -> Floats:
    """Factors on the odds of each class that make its mean score its share of right detections."""
    factors = np.ones(classes)
    for label in range(classes):
        own = (ranking.matches.labels == label) & ranking.counted
        right = int(ranking.right[own].sum())
        if 0 < right < own.sum():
            logits = logit(ranking.scores[own].clip(1e-6, 1 - 1e-6))
            factors[label] = math.exp(brentq(excess, -50, 50, args=(logits, right)))
    return factors


def excess(shift: float, logits: Floats, right: int) -> float:
    """The sum of the scores of shifted logits, minus the number of right detections."""
    return float(expit(logits + shift).sum() - right)


def rescale(found: Found, factors: Floats) -> Found:
    """Multiply the odds of the scores by the factor of their class."""

    def scaled(image: ImageDetections) -> ImageDetections:
        factor, score = factors[image.labels], image.scores.astype(np.float64)
        new = factor * score / (factor * score + 1 - score)
        return replace(image, scores=new.astype(np.float32))

    return [scaled(image) for image in found]


def above(found: Found, score: float) -> Found:
    """The detections with a higher score."""
    return [image.take(np.flatnonzero(image.scores > score)) for image in found]


def capped(found: Found) -> Found:
    """The 100 best detections of each image."""
    return [image.take(np.argsort(-image.scores, kind="stable")[:MOST]) for image in found]


def figures(split: Split, found: Found, wide: Found) -> Figures:
    """All figures of a run.

    Args:
        split: the split that was evaluated.
        found: at most 100 detections an image.
        wide: nearly all detections.
    """
    ranking = rank(split, found)
    metrics = coco_metrics(split, found)
    threshold, precision, recall = best_f1(ranking)
    errors = {name: calibration_error(ranking, i) for i, name in enumerate(split.classes)}
    return {
        "AP": metrics["AP"],
        "AP, all kept": coco_metrics(split, wide)["AP"],
        "pooled AP": pooled_ap(ranking),
        "precision": precision,
        "recall": recall,
        "threshold": threshold,
        "ECE": mean(errors.values()),
        **{name: value for name, value in metrics.items() if name.startswith("AP/")},
        **{f"ECE/{name}": value for name, value in errors.items()},
    }


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
