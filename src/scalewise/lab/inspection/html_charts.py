"""Charts for the page on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scalewise.lab.data.text import printable
from scalewise.lab.inspection.advice import Group
from scalewise.lab.inspection.chart import OBJECTS, POSITIVES
from scalewise.lab.inspection.found_tables import (
    LEVELS,
    histogram,
    range_words,
    share_text,
    vanished,
)
from scalewise.lab.inspection.look import Inspection
from scalewise.lab.report.figure import Figure, chart_text, figure_html
from scalewise.lab.report.markup import (
    Html,
    Table,
    bullets,
    join,
    paragraph,
    searchable,
    side_by_side,
    table,
)
from scalewise.lab.training.group_style import level_color

MOST_BARS = 20  # in the chart of classes; the table has all of them


def sides_chart(found: Inspection) -> Html:
    """A chart of the number of objects of each size, and a table of the levels."""
    bins = histogram(found)
    names = [f"{low:.0f} to {high:.0f}" for low, high, *_ in bins]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": f"{level}" if level else "no level",
            "x": [name for name, one in zip(names, bins, strict=True) if one[3] == level],
            "y": [count for _, _, count, own in bins if own == level],
            "marker": {"color": level_color(LEVELS.index(level)) if level else "#8a8f98"},
        }
        for level in dict.fromkeys(one[3] for one in bins)
    ]
    rows = [
        [name, str(count), share_text(count, len(found.sides)), level or "-"]
        for name, (_, _, count, level) in zip(names, bins, strict=True)
    ]
    size = found.config.size
    chart = Figure(
        "sides-chart",
        f"Objects by their side at --size {size}",
        "Square root of the area in pixels of the resized image; the colour is the level of the "
        "pyramid that gives squares of this side most of their positives.",
        traces,
        Table(["pixels", "objects", "share", "level"], rows),
        {
            "xaxis": {"categoryorder": "array", "categoryarray": names, "type": "category"},
            "yaxis": {"title": {"text": "objects"}},
            "bargap": 0.06,
            "showlegend": True,
            "barmode": "overlay",
        },
    )
    ranges = {one.name: f"{range_words(one)} px" for one in found.ranges}
    levels = [
        [
            group.name,
            ranges.get(group.name, "-"),
            share_text(group.objects, len(found.sampled.labels)),
            share_text(group.positives, int(found.sampled.positives.sum())),
        ]
        for group in found.groups["level"]
    ]
    header = ["level", "for squares of", "objects with most positives on it", "positives"]
    return join(
        [
            figure_html(chart),
            table(
                Table(header, levels),
                f"What each level gets, in {found.sampled.images} images",
            ),
            bullets(vanished(found)),
        ]
    )


def groups_part(found: Inspection) -> Html:
    """Charts and tables of the objects and positives of each class and each size."""
    by_count = sorted(found.groups["class"], key=lambda group: -group.objects)
    charts = [
        _groups_chart(by_count, "class", "Classes"),
        _groups_chart(found.groups["size"], "size", "Sizes in pixels of the original image"),
    ]
    header = ["", "objects", "share", "positives", "share", "positives per object"]
    classes = table(Table(header, _rows(found.groups["class"])), "Every class")
    sizes = table(Table(header, _rows(found.groups["size"])), "Every size")
    return join(
        [
            side_by_side([figure_html(chart) for chart in charts]),
            searchable("find-class", "Class", classes),
            sizes,
            paragraph(
                f"Positives are those that {found.config.detector} would assign in one pass over "
                f"the split, without augmentation, as {found.sampled.images} of "
                f"{len(found.split.records)} images have them."
            ),
        ]
    )


def _groups_chart(groups: Sequence[Group], by: str, title: str) -> Figure:
    shown = list(groups)
    note = ""
    if len(shown) > MOST_BARS:
        shown = shown[: MOST_BARS // 2] + shown[-(MOST_BARS // 2) :]
        note = f" Of {len(groups)}, the {MOST_BARS // 2} most and least frequent are shown."
    objects = max(1, sum(group.objects for group in groups))
    positives = max(1.0, sum(group.expected for group in groups))
    names = [chart_text(printable(group.name)) for group in shown]
    traces: list[dict[str, Any]] = [
        {"type": "bar", "orientation": "h", "name": name, "x": values, "y": names,
         "marker": {"color": color}}
        for name, values, color in (
            ("objects", [group.objects / objects for group in shown], OBJECTS),
            ("positives", [group.expected / positives for group in shown], POSITIVES),
        )
    ]  # fmt: skip
    return Figure(
        f"{by}-chart",
        title,
        f"Share of each in the objects and in the positives that carry the loss.{note}",
        traces,
        Table(
            ["", "objects", "share", "positives", "share", "positives per object"], _rows(groups)
        ),
        {
            "xaxis": {"tickformat": ".0%", "rangemode": "tozero"},
            "yaxis": {"autorange": "reversed", "type": "category"},
        },
        height=max(240, 110 + 34 * len(shown)),
    )


def _rows(groups: Sequence[Group]) -> list[list[str]]:
    objects, positives = sum(g.objects for g in groups), sum(g.expected for g in groups)
    return [
        [
            printable(group.name),
            str(group.objects),
            share_text(group.objects, objects),
            f"{group.expected:.0f}",
            share_text(group.expected, positives),
            f"{group.each:.1f}" if group.sampled else "-",
        ]
        for group in sorted(groups, key=lambda group: -group.objects)
    ]
