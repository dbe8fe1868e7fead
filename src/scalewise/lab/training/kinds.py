"""The words for groups, and the form of figures, in what a user reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A word for the groups.

    Attributes:
        one: As in "weight of each class".
        many: As in "80 classes".
    """

    one: str
    many: str


GROUP = Kind("group", "groups")
_KINDS = {
    "level": Kind("level", "levels"),
    "level-positives": Kind("level", "levels"),
    "class": Kind("class", "classes"),
    "size": Kind("size", "sizes"),
    "size*class": Kind("size and class", "sizes and classes"),
}


def kind_of(by: str | None) -> Kind:
    """The word for the groups that `--by` makes; "group" if `by` is None or not known."""
    return GROUP if by is None else _KINDS.get(by, GROUP)


def percent(value: float | None) -> str:
    """An average precision in 0..1 in percent; "-" if there is nothing to measure."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"
