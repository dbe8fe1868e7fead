"""What was found out about a data set, as one HTML page that asks for nothing more."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from scalewise.lab.data.text import printable
from scalewise.lab.inspection.advice import Group
from scalewise.lab.inspection.chart import OBJECTS, POSITIVES
from scalewise.lab.inspection.crops import Strip
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
    Section,
    Table,
    absent,
    bullets,
    code,
    heading,
    join,
    paragraph,
    picture,
    piece,
    searchable,
    side_by_side,
    table,
)
from scalewise.lab.report.page import page_html
from scalewise.lab.training.trace_picture import level_color

MOST_BARS = 20  # of the chart of classes; the table has all


def inspection_html(found: Inspection, strips: Sequence[Strip], unreadable: Sequence[str]) -> str:
    """The whole file.

    Args:
        found: A data set that has been looked at.
        strips: Examples of its groups, from `crops.strips`.
        unreadable: A line for each image whose example could not be shown.
    """
    split = found.split
    lead = join(
        [
            paragraph(f"{found.title}. {split.describe()}."),
            absent(f"scalewise train would stop at these data: {found.refused}")
            if found.refused
            else Html(""),
        ]
    )
    sections = [
        Section("begin", "What to begin with", _advice(found)),
        Section("sides", "Sizes and levels", _sides(found)),
        Section("groups", "Classes and sizes", _groups(found)),
        Section("labels", "Labels to look at", _doubts(found)),
        Section("examples", "Examples", _examples(strips, unreadable)),
    ]
    return page_html(f"Inspection of {printable(found.config.data)}", lead, sections)


def _advice(found: Inspection) -> Html:
    options = f"--data {shlex.quote(found.config.data)} --detector {found.config.detector}"
    return join(
        [
            code([f"scalewise train {options} {found.advice.words}"]),
            bullets(found.advice.reasons),
            paragraph(
                "These are rules of thumb, made before any training; docs/inspect.md has them."
            ),
        ]
    )


def _sides(found: Inspection) -> Html:
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


def _groups(found: Inspection) -> Html:
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


def _doubts(found: Inspection) -> Html:
    parts = [
        table(
            Table(["", "how many"], [[doubt.what, str(doubt.count)] for doubt in found.doubts]),
            "What may be a mistake",
        )
    ]
    for doubt in found.doubts:
        if doubt.places:
            more = doubt.count - len(doubt.places)
            rest = [f"and {more} more"] if more else []
            parts += [heading(doubt.what), bullets([*map(printable, doubt.places), *rest])]
    return join(parts)


def _examples(strips: Sequence[Strip], unreadable: Sequence[str]) -> Html:
    parts = [
        paragraph(
            "Objects of the rarest and the most frequent classes and of each size, from small to "
            "large, each box outlined; below, the square root of its area in pixels of its image."
        )
    ]
    parts += [_strip(strip) for strip in strips]
    if unreadable:
        parts += [absent("These images could not be read:"), bullets(unreadable)]
    return join(parts)


def _strip(strip: Strip) -> Html:
    sides = ", ".join(f"{side:.0f}" for side in strip.sides)
    name = printable(strip.name)
    words = f"{len(strip.sides)} examples of {name}, from small to large"
    return piece("strip", name, picture(strip.image, words), f"{sides} pixels")
