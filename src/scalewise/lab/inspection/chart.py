"""Draws the findings about a data set as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from scalewise.lab.inspection.advice import Group
from scalewise.lab.inspection.crops import Strip
from scalewise.lab.inspection.found_tables import LEVELS, histogram, range_words
from scalewise.lab.inspection.look import Inspection
from scalewise.lab.letters import known_letters
from scalewise.lab.plots import NamedFigure
from scalewise.lab.training.group_style import level_color, safe_label

MOST_BARS = 12  # in a panel of groups
OBJECTS, POSITIVES = "#4477aa", "#e69f00"


def draw_inspection(found: Inspection, strips: Sequence[Strip]) -> NamedFigure:
    """Draw the object sizes with the levels, the groups, and the examples.

    Args:
        found: The findings about a data set.
        strips: Examples of its groups, from `crops.strips`; if empty, that part is left out.
    """
    names = [*found.split.classes, *(strip.name for strip in strips), found.config.data]
    bars = min(MOST_BARS, len(found.groups["class"]))
    heights = [2.6, 0.9 + 0.2 * max(5, bars), 0.95 * len(strips) + 0.2]
    rows = 3 if strips else 2
    figure = NamedFigure(names, figsize=(10, 0.7 + sum(heights[:rows])), dpi=120)
    with figure.settings():
        parts = figure.subfigures(rows, 1, squeeze=False, height_ratios=heights[:rows])[:, 0]
        figure.suptitle(known_letters(found.title).replace("$", r"\$"))
        _sides(parts[0].subplots(), found)
        panels = parts[1].subplots(1, 3, width_ratios=(1.3, 1, 1))
        titles = {"class": "classes", "size": "sizes in the original image", "level": "levels"}
        for axes, (by, title) in zip(panels, titles.items(), strict=True):
            _groups(axes, found.groups[by], title)
        panels[0].legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=2, frameon=False, fontsize="small"
        )
        if strips:
            _examples(parts[2].subplots(len(strips), 1, squeeze=False)[:, 0], strips)
    return figure


def _sides(axes: Axes, found: Inspection) -> None:
    """Bars of object sizes in the colours of the levels that they train, and the levels' ranges."""
    bins = histogram(found)
    for low, high, count, level in bins:
        color = level_color(LEVELS.index(level)) if level else "0.7"
        axes.bar(low, count, width=high - low, align="edge", color=color, edgecolor="white")
    axes.set_xscale("log", base=2)
    least = min([low for low, *_ in bins] or [4.0])
    axes.set_xlim(min(least, 4.0), max([high for _, high, *_ in bins] + [found.config.size]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"side of an object in pixels at --size {found.config.size} (√area)")
    axes.set_ylabel("objects")
    top = axes.get_ylim()[1]
    left, right = axes.get_xlim()
    for one in found.ranges:
        low, high = max(one.low, left), min(one.high, right)
        if low >= high:
            continue
        axes.axvline(low, color="0.6", linewidth=0.8, linestyle=":")
        axes.text(
            float(np.sqrt(low * high)),
            top,
            f"{one.name}\n{range_words(one)} px" if high / low > 1.3 else one.name,
            ha="center",
            va="bottom",
            color=level_color(LEVELS.index(one.name)),
        )
    if left < 4:
        axes.axvspan(left, 4.0, color="0.93", zorder=0)
        axes.text(left * 1.03, 0.97 * top, "under 4 px", va="top", color="0.4", fontsize="small")


def _groups(axes: Axes, groups: Sequence[Group], title: str) -> None:
    """Bars of each group's share of the objects and of the positives."""
    shown = list(groups)
    if len(shown) > MOST_BARS or title == "classes":
        shown.sort(key=lambda group: -group.objects)
    hidden = len(shown) - MOST_BARS
    if hidden > 0:
        shown = shown[: MOST_BARS // 2] + shown[-(MOST_BARS // 2) :]
        title += f" ({hidden} between not shown)"
    objects = max(1, sum(group.objects for group in groups))
    positives = max(1.0, sum(group.expected for group in groups))
    places = np.arange(len(shown))
    for shift, values, color, name in (
        (-0.2, [group.objects / objects for group in shown], OBJECTS, "share of the objects"),
        (0.2, [group.expected / positives for group in shown], POSITIVES, "of the positives"),
    ):
        axes.barh(places + shift, values, 0.38, color=color, label=name)
    axes.set_yticks(places, [safe_label(group.name) for group in shown])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel(title)


def _examples(panels: Sequence[Axes], strips: Sequence[Strip]) -> None:
    """A row of crops for each group, with the sides of their boxes below."""
    for axes, strip in zip(panels, strips, strict=True):
        axes.imshow(np.asarray(strip.image))
        axes.set_xticks(
            [48 + 100 * place for place in range(len(strip.sides))],
            [f"{side:.0f} px" for side in strip.sides],
            fontsize="x-small",
        )
        axes.set_yticks([])
        axes.tick_params(length=0, pad=1)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_ylabel(safe_label(strip.name), rotation=0, ha="right", va="center")
