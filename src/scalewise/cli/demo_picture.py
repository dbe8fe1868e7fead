"""The demo's picture: AP of each class with equal and with balanced weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

EQUAL, BALANCED = "#9a9a9a", "#0b62a8"


@dataclass(frozen=True)
class ClassScore:
    """One class before and after.

    Attributes:
        name: of the class.
        objects: in the training split.
        equal: AP with equal weights, 0..1.
        balanced: AP with the balanced ones.
    """

    name: str
    objects: int
    equal: float
    balanced: float


def draw_classes(path: Path, scores: Sequence[ClassScore], scheme: str) -> None:
    """Draw two bars a class, the most frequent class first.

    Args:
        path: PNG file.
        scores: at least one.
        scheme: what balanced the weights, for the legend.
    """
    ordered = sorted(scores, key=lambda score: -score.objects)
    places = np.arange(len(ordered))
    before, after = (
        100 * np.array([getattr(s, k) for s in ordered]) for k in ("equal", "balanced")
    )
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.2), layout="constrained", dpi=120)
        axes = figure.subplots()
        axes.bar(
            places - 0.2, before, 0.38, color=EQUAL, label=f"equal weights: {before.mean():.1f}"
        )
        axes.bar(places + 0.2, after, 0.38, color=BALANCED, label=f"{scheme}: {after.mean():.1f}")
        for place, low, high in zip(places, before, after, strict=True):
            axes.text(place + 0.2, high + 0.6, f"{high - low:+.1f}", ha="center", color=BALANCED)
        labels = [f"{score.name}\n{score.objects} objects" for score in ordered]
        axes.set_xticks(places, labels)
        axes.set_ylabel("AP on the test images")
        axes.set_title("The same training twice: rare classes get more weight", loc="left")
        axes.legend(frameon=False, title="mean over the classes")
        aside = path.with_name(f".{path.stem}.{os.getpid()}.png")
        figure.savefig(aside)
    os.replace(aside, path)
