"""Prints the findings about a data set as tables that fit 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalewise.lab.data.text import printable
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.inspection.advice import Group
from scalewise.lab.inspection.labels import Doubt
from scalewise.lab.inspection.levels import LevelRange
from scalewise.lab.inspection.look import Inspection
from scalewise.lab.training.group_style import level_color

MOST_ROWS = 12  # in a table of groups
_BAR = 30  # characters of the longest bar
_OCTAVE = 2  # bins for each doubling of the side
LEVELS = level_names()


def show_inspection(found: Inspection, console: Console) -> None:
    """Print all findings, and the advice at the end."""
    console.print(Text(f"{printable(found.config.data)}, {found.split.describe()}"))
    config = found.config
    console.print(
        f"{config.detector} at --size {config.size}, --anchor_scale {config.anchor_scale:g}\n"
    )
    if found.refused:
        refused = " ".join(printable(found.refused).split())
        console.print(Text(f"scalewise train would stop at these data: {refused}\n", "bold red"))
    console.print(_sides_table(found))
    console.print(_levels_table(found))
    for line in vanished(found):
        console.print(Text(line))
    for by, title in (("class", "class"), ("size", "size (original image)")):
        console.print()
        for part in _groups_table(found.groups[by], title):
            console.print(part)
    console.print()
    console.print(_doubts_table(found.doubts))
    console.print(Text(f"To begin with: {found.advice.words}", "bold"))
    for reason in found.advice.reasons:
        console.print(Text(f"- {reason}"))


def histogram(found: Inspection) -> list[tuple[float, float, int, str]]:
    """Count the objects by their side after resizing; a bin ends at √2 times its start.

    Returns:
        For each bin its start and end (pixels), the number of objects, and the level that gives
        squares of this side most of their positives ("" for none).
    """
    if not len(found.sides):
        return []
    places = np.floor(_OCTAVE * np.log2(np.maximum(found.sides, 1e-3))).astype(int)
    bins = []
    for place in range(int(places.min()), int(places.max()) + 1):
        low, high = 2 ** (place / _OCTAVE), 2 ** ((place + 1) / _OCTAVE)
        middle = math.sqrt(low * high)
        level = next((r.name for r in found.ranges if r.low <= middle < r.high), "")
        bins.append((low, high, int((places == place).sum()), level))
    return bins


def vanished(found: Inspection) -> list[str]:
    """Sentences on the objects that are lost at this size, or on there being none."""
    small, sampled = found.small, found.sampled
    lines = []
    if small.under_four:
        lines.append(
            f"{_count(small.under_four, 'object')} under 4 pixels wide or high, of which "
            f"{small.under_one} under 1 pixel and left out of training."
        )
    without = int((sampled.level < 0).sum())
    if without:
        lines.append(
            f"{without} of {_count(len(sampled.labels), 'object')} in {sampled.images} images get "
            "no positive on any level: training does not see them."
        )
    return lines or ["No object is under 4 pixels, and each gets a positive on some level."]


def range_words(one: LevelRange) -> str:
    """The range of sides of a level in words, in pixels."""
    if one.low <= 4:
        return "all" if math.isinf(one.high) else f"up to {one.high:.0f}"
    return f"from {one.low:.0f}" if math.isinf(one.high) else f"{one.low:.0f} to {one.high:.0f}"


def _sides_table(found: Inspection) -> Table:
    table = _table("Sides of the objects after resizing (square root of the area)")
    table.add_column("pixels", justify="right")
    table.add_column("objects", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", width=_BAR, no_wrap=True)
    table.add_column("level")
    bins = histogram(found)
    most = max((count for _, _, count, _ in bins), default=1)
    for low, high, count, level in bins:
        bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
        share = share_text(count, len(found.sides))
        color = level_color(LEVELS.index(level)) if level else ""
        table.add_row(f"{low:.0f} to {high:.0f}", str(count), share, Text(bar, color), level)
    return table


def _levels_table(found: Inspection) -> Table:
    table = _table("What each level of the pyramid gets")
    for name in ("level", "for squares of", "most positives on it", "positives"):
        table.add_column(name, justify="left" if name == "level" else "right")
    for group in found.groups["level"]:
        ranges = [range_words(one) for one in found.ranges if one.name == group.name]
        table.add_row(
            group.name,
            f"{ranges[0]} px" if ranges else "-",
            f"{share_text(group.objects, len(found.sampled.labels))} of objects",
            share_text(group.positives, int(found.sampled.positives.sum())),
        )
    return table


def _groups_table(groups: Sequence[Group], title: str) -> list[Table | str]:
    """The groups by frequency; if they are many, only the most and the least frequent ones."""
    table = _table("")
    table.add_column(title, overflow="fold")
    for name in ("objects", "share", "positives", "share", "per object"):
        table.add_column(name, justify="right")
    ordered = sorted(groups, key=lambda group: -group.objects)
    objects, positives = sum(g.objects for g in groups), sum(g.expected for g in groups)
    hidden = len(ordered) - MOST_ROWS
    for place, group in enumerate(ordered):
        if hidden > 0 and MOST_ROWS // 2 <= place < MOST_ROWS // 2 + hidden:
            continue
        table.add_row(
            Text(printable(group.name)),
            str(group.objects),
            share_text(group.objects, objects),
            f"{group.expected:.0f}",
            share_text(group.expected, positives),
            f"{group.each:.1f}" if group.sampled else "-",
            end_section=hidden > 0 and place == MOST_ROWS // 2 - 1,
        )
    return [table, f"{hidden} between them are not shown"] if hidden > 0 else [table]


def _doubts_table(doubts: Sequence[Doubt]) -> Table:
    table = _table("Labels to look at")
    table.add_column("", justify="right")
    table.add_column("what, and the first three places", overflow="fold")
    for doubt in (doubt for doubt in doubts if doubt.count):
        words = Text(doubt.what)
        for place in doubt.places:
            words.append(f"\n  {printable(place)}", "dim")
        table.add_row(str(doubt.count), words)
    for doubt in (doubt for doubt in doubts if not doubt.count):
        table.add_row("0", doubt.what)
    return table


def _table(title: str) -> Table:
    name = Text(title, "bold") if title else None
    return Table(title=name, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def share_text(part: float, whole: float) -> str:
    """A share in percent, with one decimal below 10 %."""
    value = 100 * part / whole if whole else 0.0
    return f"{value:.1f} %" if 0 < value < 9.95 else f"{value:.0f} %"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
