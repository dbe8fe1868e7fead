"""The demo's picture: what equal and balanced weights find, and AP of each class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from scalewise.files import whole
from scalewise.lab.evaluation.judged import Judged

EQUAL, BALANCED = "#7f7f7f", "#0b62a8"
_FOUND, _WRONG, _MISSED = ("#0b7a2b", "-", 1.6), ("#e06c00", "-", 1.6), ("black", "--", 2.0)
_LEGEND = ((_FOUND, "found"), (_MISSED, "missed"), (_WRONG, "wrong"))


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


@dataclass(frozen=True)
class Row:
    """What one run found in some images.

    Attributes:
        title: a line above them.
        color: of the line.
        images: each with what was found in it.
    """

    title: str
    color: str
    images: list[Judged]


def draw_classes(path: Path, scores: Sequence[ClassScore], scheme: str) -> None:
    """Draw two bars a class, the most frequent class first.

    Args:
        path: PNG file.
        scores: at least one.
        scheme: what balanced the weights, for the legend.
    """
    with _style():
        figure = Figure(figsize=(8, 4.2), layout="constrained", dpi=120)
        axes = figure.subplots()
        _bars(axes, scores, scheme)
        axes.set_ylabel("AP on the test images")
        axes.set_title("The same training twice: rare classes get more weight", loc="left")
        with whole(path) as aside:
            figure.savefig(aside)


def draw_demo(path: Path, scores: Sequence[ClassScore], scheme: str, rows: Sequence[Row]) -> None:
    """Draw the images of each row with their boxes, and the bars of `draw_classes` beside them.

    Args:
        path: PNG file.
        scores: at least one.
        scheme: what balanced the weights, for the legend.
        rows: of equal weights and of the scheme, with as many images each.
    """
    with _style():
        figure = Figure(figsize=(12, 5.6), layout="constrained", dpi=120)
        figure.suptitle(
            "The same detector trained twice: with equal weights, and with more weight on what "
            "is rare",
            fontsize=13,
            weight="bold",
        )
        left, right = figure.subfigures(1, 2, False, width_ratios=(7, 5))[0]
        lines = [Line2D([], [], color=c, ls=s, lw=w) for (c, s, w), _ in _LEGEND]
        names = [name for _, name in _LEGEND]
        left.legend(
            lines,
            names,
            loc="outside lower center",
            ncols=3,
            frameon=False,
            title="each run's best boxes, as many of a class as there are objects",
        )
        for part, row in zip(left.subfigures(len(rows), 1, False)[:, 0], rows, strict=True):
            part.suptitle(row.title, fontsize=12, color=row.color, weight="bold")
            panels = part.subplots(1, len(row.images), squeeze=False)[0]
            for axes, judged in zip(panels, row.images, strict=True):
                _draw_image(axes, judged)
        axes = right.subplots()
        _bars(axes, scores, scheme)
        axes.set_ylabel("AP on pictures kept out of training")
        with whole(path) as aside:
            figure.savefig(aside)


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})


def _bars(axes: Axes, scores: Sequence[ClassScore], scheme: str) -> None:
    ordered = sorted(scores, key=lambda score: -score.objects)
    places = np.arange(len(ordered))
    before, after = (
        100 * np.array([getattr(s, k) for s in ordered]) for k in ("equal", "balanced")
    )
    axes.bar(places - 0.2, before, 0.38, color=EQUAL, label=f"equal weights: {before.mean():.1f}")
    axes.bar(places + 0.2, after, 0.38, color=BALANCED, label=f"{scheme}: {after.mean():.1f}")
    for place, low, high in zip(places, before, after, strict=True):
        axes.text(place + 0.2, high + 0.6, f"{high - low:+.1f}", ha="center", color=BALANCED)
    total = sum(score.objects for score in ordered)
    labels = [f"{s.name}\n{100 * s.objects / total:.0f} % of the boxes" for s in ordered]
    axes.set_xticks(places, labels)
    axes.set_ylim(top=1.25 * max(*before, *after, 1.0))
    axes.legend(frameon=False, title="mean over the classes")


def _draw_image(axes: Axes, judged: Judged) -> None:
    with Image.open(judged.record.path) as file:
        pixels = np.asarray(file.convert("RGB"))
    axes.imshow(pixels, interpolation="bicubic")
    axes.axis("off")
    boxes = judged.kept.boxes
    _draw_boxes(axes, boxes[judged.right], *_FOUND)
    _draw_boxes(axes, boxes[~judged.right], *_WRONG)
    _draw_boxes(axes, judged.record.boxes[judged.missed], *_MISSED)


def _draw_boxes(
    axes: Axes, boxes: npt.NDArray[np.floating], color: str, style: str, width: float
) -> None:
    for x1, y1, x2, y2 in boxes:
        axes.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, ec=color, fc="none", ls=style, lw=width
            )
        )
