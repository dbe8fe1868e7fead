"""Figures of results: matplotlib figures that a notebook shows by itself."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from scalewise.lab.letters import families
from scalewise.lab.training.group_style import chosen_groups, group_color, is_broken, safe_label

if TYPE_CHECKING:
    from scalewise.lab.study.statistics import Difference

_MOST_PICTURES, _ACROSS = 9, 3
_LOOK = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


class NamedFigure(Figure):
    """A figure with names in any script, which a notebook shows without pyplot.

    Args:
        names: All names in the figure; the fonts are chosen for them.
        options: Passed on to matplotlib's `Figure`.
    """

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        self._settings: Any = {**_LOOK, "font.family": families(names)}
        with mpl.rc_context(self._settings):
            super().__init__(layout="constrained", **options)

    def draw(self, renderer: RendererBase) -> None:
        """Draw with the settings of this figure, since the tick labels are made only now."""
        with mpl.rc_context(self._settings):
            super().draw(renderer)

    def settings(self) -> Any:
        """A context for adding to the figure: what is added gets the look of the figure."""
        return mpl.rc_context(self._settings)

    def _repr_png_(self) -> bytes:
        held = io.BytesIO()
        self.savefig(held, format="png")
        return held.getvalue()


def plot_run(
    history: Sequence[Mapping[str, Any]], steps: np.ndarray, weights: Mapping[str, np.ndarray]
) -> NamedFigure:
    """AP after each epoch, and the weights over the steps.

    Args:
        history: One mapping for each epoch, with "epoch" and "AP" (0..1).
        steps: int [n], the training steps.
        weights: float [n] for each group, by its name; at most ten groups are drawn.
    """
    figure = NamedFigure([*weights], figsize=(9, 3), dpi=100)
    with figure.settings():
        left, right = figure.subplots(1, 2)
        left.plot([e["epoch"] for e in history], [_percent(e["AP"]) for e in history], marker="o")
        left.set_xlim(0, max([float(e["epoch"]) for e in history] or [1.0]) + 1)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set_xlabel("epoch")
        left.set_ylabel("AP (%)")
        left.set_ylim(bottom=0)
        names = list(weights)
        if names and len(steps):
            shown = chosen_groups(np.stack([weights[name] for name in names], axis=1), None)
            for place, group in enumerate(shown):
                right.step(
                    steps,
                    weights[names[group]],
                    where="post",
                    color=group_color(place),
                    linestyle="--" if is_broken(place) else "-",
                    label=safe_label(names[group]),
                )
            right.legend(frameon=False, fontsize="small")
        right.set_xlabel("step")
        right.set_ylabel("weight")
    return figure


def plot_classes(metrics: Mapping[str, float]) -> NamedFigure:
    """AP of each class, the highest on top.

    Args:
        metrics: Metrics by name; those named "AP/<class>" (0..1) are drawn.
    """
    classes = {k[3:]: _percent(v) for k, v in metrics.items() if k.startswith("AP/")}
    order = sorted(classes, key=lambda name: -np.nan_to_num(classes[name], nan=-1.0))
    figure = NamedFigure(order, figsize=(6, 1 + 0.25 * max(2, len(order))), dpi=100)
    with figure.settings():
        axes = figure.subplots()
        places = np.arange(len(order))
        axes.barh(places, [np.nan_to_num(classes[name]) for name in order], color="#4477aa")
        axes.set_yticks(places, [safe_label(name) for name in order])
        axes.invert_yaxis()
        for place, name in zip(places, order, strict=True):
            value = classes[name]
            words = "no object" if math.isnan(value) else f"{value:.1f}"
            axes.annotate(
                words,
                (float(np.nan_to_num(value)), float(place)),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xlabel("AP (%)")
        axes.margins(x=0.12)
    return figure


def plot_pictures(pictures: Sequence[Path]) -> NamedFigure:
    """Images side by side, at most nine.

    Args:
        pictures: Image files.
    """
    shown = list(pictures)[:_MOST_PICTURES]
    rows = max(1, math.ceil(len(shown) / _ACROSS))
    figure = NamedFigure([path.stem for path in shown], figsize=(3.4 * _ACROSS, 3 * rows), dpi=100)
    with figure.settings():
        panels = figure.subplots(rows, _ACROSS, squeeze=False).ravel()
        for axes, path in zip(panels, shown, strict=False):
            with Image.open(path) as image:
                axes.imshow(np.asarray(image.convert("RGB")))
            axes.set_title(safe_label(path.stem))
        for axes in panels:
            axes.axis("off")
        if len(pictures) > len(shown):
            figure.suptitle(f"{len(shown)} of {len(pictures)} images")
    return figure


def plot_differences(found: Sequence[tuple[str, Difference]]) -> NamedFigure:
    """Differences of AP to the baseline, with their 95% intervals.

    Args:
        found: Pairs of a detector's name and a difference.
    """
    names = [f"{detector} {one.scheme}" for detector, one in found]
    figure = NamedFigure(names, figsize=(7, 1.2 + 0.4 * max(1, len(found))), dpi=100)
    with figure.settings():
        axes = figure.subplots()
        for place, (_, one) in enumerate(found):
            _interval(axes, place, one)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set_yticks(range(len(names)), [safe_label(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        baselines = ", ".join(dict.fromkeys(one.baseline for _, one in found))
        axes.set_xlabel(f"AP minus {baselines}, points; 95% interval (Student's t)")
    return figure


def _interval(axes: Axes, place: int, one: Difference) -> None:
    value = _percent(one.difference)
    if one.t_interval is not None:
        low, high = (_percent(edge) for edge in one.t_interval)
        axes.plot([low, high], [place, place], color="#4477aa", linewidth=2)
    axes.plot([value], [place], "o", color="#4477aa")


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * float(value)
