"""What to call the groups of a run where a user reads of them."""

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


def printable(name: str) -> str:
    """A name for the terminal: in one line, and without codes that would steer it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def kind_of(by: str | None) -> Kind:
    """The word for what `--by` names; "group" for another word, or None where it is not known."""
    return GROUP if by is None else _KINDS.get(by, GROUP)
