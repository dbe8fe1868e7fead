"""How groups look in every chart: which are shown, their colours, lines and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scalewise.lab.letters import known_letters
from scalewise.lab.training.kinds import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 10  # groups in one chart
# five colours of Okabe and Ito, safe for colour-blind readers, then five with broken lines
COLORS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#cc79a7")
MORE_COLORS = ("#56b4e9", "#882255", "#999933", "#8c510a", "#6a3d9a")
BACKGROUND_COLOR = "#8a8f98"
REST_COLOR = "#c9cdd2"
LONGEST = 24  # characters of a name in a legend


def level_color(level: int) -> str:
    """The colour of a level in every picture."""
    return COLORS[level % len(COLORS)]


def group_color(place: int) -> str:
    """The colour of a group in a chart; if groups are levels, the colour of the level.

    Args:
        place: Its place among the groups of the chart, below `MOST`.
    """
    return (COLORS + MORE_COLORS)[place % MOST]


def is_broken(place: int) -> bool:
    """Whether a group's line is broken, so that it is not mistaken for one of a similar colour."""
    return place % MOST >= len(COLORS)


def chosen_groups(weights: np.ndarray, positives: np.ndarray | None) -> list[int]:
    """The groups that a chart shows: at most ten, those whose weights went furthest from 1.

    Args:
        weights: float [rows, n], of all rows.
        positives: float [rows, n]; of groups with equal distance those with more positives come
            first. None if they are not known.

    Returns:
        Indices, ascending, of the groups with the largest distance |log(weight)| in any row.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(weights)).max(0)  # infinite for a weight of 0
    counts = np.zeros(weights.shape[1]) if positives is None else np.nansum(positives, 0)
    order = np.lexsort((np.arange(len(counts)), -counts, -np.nan_to_num(distance, nan=0.0)))
    return sorted(order[:MOST].tolist())


def choice_note(shown: int, count: int, kind: Kind) -> str:
    """Says which groups a chart shows if it does not show all; else empty."""
    if shown == count:
        return ""
    return f"{shown} of {count} {kind.many}: those whose weights went furthest from 1"


def safe_label(name: str) -> str:
    """A name in the form that matplotlib shows: it hides "_names" and reads "$" as a formula."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    short = known_letters(short).replace("$", r"\$")
    return f" {short}" if short.startswith("_") else short


def legend_beside(axes: Axes) -> None:
    """Put the legend beside the panel, so that no name lies below the panel's end."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
        frameon=False,
        fontsize="small" if len(axes.lines) > 8 else "medium",
        labelspacing=0.3,
    )
