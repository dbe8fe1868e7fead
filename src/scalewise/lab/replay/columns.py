"""Finds the columns or tags that hold the losses of each group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scalewise.errors import UserError
from scalewise.lab.training.trace_reading import group_names, loss_columns

DEFAULT = ("loss/{term}/{group}", "loss/{group}")
LEVEL_NAME = re.compile(r"[A-Za-z_]*\d+")  # P3, level0, 0: allowed names of bare columns
TOTALS = ("total", "sum", "all")


class LossesError(UserError):
    """Recorded losses cannot be read; the message says where, and what was expected there."""


@dataclass(frozen=True)
class Columns:
    """The columns of each group's loss.

    Attributes:
        groups: Names of the groups, in the order found.
        names: For each group, the columns whose sum is its loss; equally many for all groups.
    """

    groups: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]


def find_columns(names: Iterable[str], pattern: str | None, source: str) -> Columns:
    """Find the losses of the groups among the names of columns or tags.

    Traces and logs of scalewise have columns weight/<group>; these name the groups, which may then
    have any name.

    Args:
        names: All columns or tags.
        pattern: A name with `{group}` in it and, if the loss of a group is the sum of several
            columns, with `{term}` too. None means the columns of scalewise; in other files
            "loss/<term>/<group>" or "loss/<group>", or else bare level names such as "P3".
        source: Name of the file, for messages.

    Raises:
        LossesError: no name fits, two patterns fit, or a group lacks a term that others have.
    """
    names = list(names)
    groups = group_names(names)
    own = loss_columns(names, groups) if groups and pattern is None else None
    if own is not None:
        return Columns(tuple(groups), tuple(map(tuple, own)))
    rest = [name for name in names if name != "step"]
    if pattern is not None:
        found = _match(rest, pattern)
        if not found:
            raise LossesError(f"{source}: nothing is named like {pattern!r}; {_there_is(rest)}")
    else:
        readings = [f for f in (_match(rest, p) for p in DEFAULT) if f]
        if len(readings) == 2:
            both = [next(iter(f)) for f in readings]
            raise LossesError(
                f"{source}: has both {both[0]!r} and {both[1]!r}, which may be the same loss twice;"
                f" say which to take with --tags '{DEFAULT[0]}' or '{DEFAULT[1]}'"
            )
        found = readings[0] if readings else _bare(rest, source)
    return _complete(found, source)


def _match(names: Sequence[str], pattern: str) -> dict[str, tuple[str, str]]:
    """Group and term of each name that fits the pattern; totals are left out."""
    if "{group}" not in pattern:
        raise LossesError(f"--tags {pattern!r}: must contain {{group}}, as in 'loss/{{group}}'")
    parts = re.split(r"(\{group\}|\{term\})", pattern)
    groups = {"{group}": r"(?P<group>[^/]+)", "{term}": r"(?P<term>[^/]+)"}
    try:
        expression = re.compile("".join(groups.get(part, re.escape(part)) for part in parts))
    except re.error:
        raise LossesError(f"--tags {pattern!r}: has a placeholder twice") from None
    hits = {name: hit for name in names if (hit := expression.fullmatch(name))}
    return {
        name: (hit["group"], hit.groupdict().get("term", ""))
        for name, hit in hits.items()
        if hit["group"].lower() not in TOTALS
    }


def _bare(names: Sequence[str], source: str) -> dict[str, tuple[str, str]]:
    """Columns that are named after levels; refuses the table if there are any others."""
    odd = [name for name in names if not LEVEL_NAME.fullmatch(name)]
    if odd or not names:
        raise LossesError(
            f"{source}: no columns loss/<group> or loss/<term>/<group>, and "
            + (f"{', '.join(map(repr, odd[:8]))} cannot be levels" if odd else "no others")
            + "; name the level columns P3, P4, ... beside an optional 'step', or say how they are "
            f"named, as in --tags 'train/{{group}}_loss'; {_there_is(names)}"
        )
    return {name: (name, "") for name in names}


def _complete(found: dict[str, tuple[str, str]], source: str) -> Columns:
    groups = tuple(dict.fromkeys(group for group, _ in found.values()))
    terms = tuple(dict.fromkeys(term for _, term in found.values()))
    at = {place: name for name, place in found.items()}
    lacking = [f"{t} of {n}" for n in groups for t in terms if (n, t) not in at]
    if lacking:
        raise LossesError(
            f"{source}: every group needs every loss term, but there is no {', '.join(lacking[:8])}"
        )
    return Columns(groups, tuple(tuple(at[group, term] for term in terms) for group in groups))


def _there_is(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"there is: {shown or 'nothing'}"
