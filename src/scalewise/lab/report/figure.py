"""A chart with its heading, a sentence on how to read it, and its values as a table."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalewise.lab.report.markup import Html, Table, piece, table

DIGITS = 5  # digits of the numbers in charts: more than a screen can show

# Tol's "bright" colours: easy to tell apart, also for the colour-blind, on white and on black
SERIES_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866")
BASELINE_COLOR = "#8a8f98"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        identity: HTML id, unique on the page.
        heading: Heading above the chart.
        reading: A few words on how to read it.
        traces: Traces in plotly's form.
        values: The same values as a table, for readers who cannot see the chart.
        layout: Layout in plotly's form; colours and fonts come from the page.
        height: Height in pixels.
    """

    identity: str
    heading: str
    reading: str
    traces: list[dict[str, Any]]
    values: Table
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 360


def figure_html(figure: Figure) -> Html:
    """The figure as HTML; the page's script draws it."""
    layout = {"legend": LEGEND, "margin": {"l": 12, "r": 14, "t": 32, "b": 40}} | figure.layout
    drawing = {"data": compact(figure.traces), "layout": compact(layout)}
    return piece("figure", figure, drawing, table(figure.values, figure.heading))


def compact(value: Any) -> Any:
    """Prepare values for JSON: arrays as lists, floats with few digits, None if not finite."""
    if isinstance(value, np.ndarray):
        return compact(value.tolist())
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [compact(item) for item in value]
    if isinstance(value, float | np.floating):
        number = float(f"{value:.{DIGITS}g}")
        return (int(number) if number.is_integer() else number) if math.isfinite(value) else None
    return value


def chart_text(name: str) -> str:
    """Escape a name for plotly, whose texts may contain some HTML."""
    return html.escape(name, quote=False)


def name_lines(name: str, width: int = 32) -> list[str]:
    """Break a long name, such as a scheme with its arguments, into lines that end with a colon.

    Args:
        name: The name in one line.
        width: Largest number of characters in a line; a longer part gets a line of its own.
    """
    lines = [""]
    for part in re.split(r"(?<=:)", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def stacked(name: str) -> str:
    """A name in several lines for plotly."""
    return "<br>".join(chart_text(line) for line in name_lines(name))


def rows_axis(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with a row for each name, the first on top."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": list(names),
        "range": [len(names) - 0.5, -0.5],
        "fixedrange": True,
        "zeroline": False,
    }


def number(value: float | None, digits: int = 3) -> str:
    """A value in a table, with a true minus sign; "-" for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:.0f}" if 10**digits <= abs(value) < 1e7 else f"{value:.{digits}g}"
    return text.replace("-", "−", 1) if value < 0 else text


def series_style(index: int, baseline: bool) -> tuple[str, str, str]:
    """Colour, symbol and dash of a series; series with the same colour differ in the symbol.

    Args:
        index: Index of the series among those that are not the baseline.
        baseline: Whether the series is the baseline.
    """
    if baseline:
        return BASELINE_COLOR, "line-ew-open", "solid"
    return (
        SERIES_COLORS[index % len(SERIES_COLORS)],
        SYMBOLS[index % len(SYMBOLS)],
        DASHES[index % len(DASHES)],
    )
