"""Writes the findings about a data set as one HTML page that needs no other file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from scalewise.lab.data.text import printable
from scalewise.lab.inspection.crops import Strip
from scalewise.lab.inspection.html_charts import groups_part, sides_chart
from scalewise.lab.inspection.look import Inspection
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
    table,
)
from scalewise.lab.report.page import page_html


def inspection_html(found: Inspection, strips: Sequence[Strip], unreadable: Sequence[str]) -> str:
    """Build the whole page.

    Args:
        found: The findings about a data set.
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
        Section("sides", "Sizes and levels", sides_chart(found)),
        Section("groups", "Classes and sizes", groups_part(found)),
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
