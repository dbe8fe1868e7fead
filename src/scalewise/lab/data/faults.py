"""What can be wrong with a data set, and how it is reported before training starts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from scalewise.errors import UserError
from scalewise.lab.data.text import one_line

FEW = 0.01  # by default, less than this share of the images and of the objects may have a fault
_KEPT = 10_000  # faults that are kept word for word; further ones are only counted
_NAMED = 3
_SHOWN = 5
_IN_WORKER = "Caught BadData in "


IMAGE_KINDS = frozenset(
    {
        "missing image",
        "unreadable image",
        "size mismatch",
        "turned image",
        "missing annotation",
        "broken file",
        "duplicate image",
        "misplaced labels",
    }
)
OBJECT_KINDS = frozenset(
    {
        "bad box",
        "bad value",
        "box outside image",
        "duplicate object",
        "broken line",
        "ambiguous line",
        "missing field",
    }
)


class BadData(UserError, ValueError):
    """A data set that cannot be used as it is; the message names the file and the fault.

    Args:
        message: one line.
        lines: further lines, shown indented.

    Examples:
        >>> from scalewise.data import BadData, open_split
        >>> try:
        ...     open_split("no/such/folder")
        ... except BadData as fault:
        ...     print(fault)
        no/such/folder: no such data set folder...
    """

    def __init__(self, message: str, *lines: str) -> None:
        if message.startswith(_IN_WORKER):  # a loader process sends its traceback as the message
            message = message.partition("faults.BadData: ")[2].rstrip() or message
        super().__init__(message, *lines)

    def __str__(self) -> str:
        return "\n  ".join(one_line(str(line)) for line in self.args)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: short name of the kind of fault, as counted in reports.
        where: the file, and the object in it if there is one.
        what: what is wrong there.
    """

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return one_line(f"{self.where}: {self.what}")


class FaultFound(Exception):
    """A row, line or image that cannot be used.

    Args:
        kind: short name of the kind of fault, as counted in reports.
        what: what is wrong with it.
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass
class Faults:
    """Faults gathered while a split is read, so that all are reported at once.

    Attributes:
        found: the first 10,000 faults in reading order.
        number: number of faults of each kind.
        clipped: number of boxes that reached beyond their image and were cut to it.
    """

    found: list[Fault] = field(default_factory=list)
    number: Counter[str] = field(default_factory=Counter)
    clipped: int = 0

    def add(self, kind: str, where: str, what: str) -> None:
        """Note one fault."""
        self.number[kind] += 1
        if len(self.found) < _KEPT:
            self.found.append(Fault(kind, where, what))

    def counts(self) -> dict[str, int]:
        """Return the number of faults of each kind, most frequent first."""
        return dict(self.number.most_common())

    def summary(self) -> str:
        """Return the counts and the first three faults as one line."""
        named = "; ".join(str(fault) for fault in self.found[:_NAMED])
        more = self.number.total() - _NAMED
        return f"{format_counts(self.counts())}: {named}" + (f"; and {more} more" * (more > 0))

    def raise_beyond(self, tolerance: float, images: int, objects: int, source: str) -> None:
        """Raise an error with the first five faults and the total if there are too many.

        Args:
            tolerance: faults are tolerated below this share of the images and of the objects. With
                infinity all are; otherwise faults of other kinds, such as unknown classes, are not.
            images: number of images without a fault.
            objects: number of objects without a fault.
            source: what was read, for the first line of the message.

        Raises:
            BadData: there are more faults than that.
        """
        if not self.found or tolerance == math.inf:
            return
        total = self.number.total()
        of_images = sum(self.number[kind] for kind in IMAGE_KINDS)
        of_objects = sum(self.number[kind] for kind in OBJECT_KINDS)
        if (
            of_images + of_objects == total
            and are_few(of_images, images + of_images, tolerance)
            and are_few(of_objects, objects + of_objects, tolerance)
        ):
            return
        hint = "fix it, or train on the rest with --skip-bad"
        if total == 1:
            raise BadData(f"{self.found[0]} ({hint})")
        lines = [str(fault) for fault in self.found[:_SHOWN]]
        if total > _SHOWN:
            lines.append(f"and {total - _SHOWN} more")
        raise BadData(f"{source}: {total} faults: {format_counts(self.counts())} ({hint})", *lines)


def are_few(count: int, total: int, tolerance: float) -> bool:
    """Return whether `count` faults among `total` images or objects are tolerated."""
    return count == 0 or count < tolerance * total


def format_counts(counts: dict[str, int]) -> str:
    """Return the counts of each kind as one phrase, such as '2 bad boxes, 1 missing image'."""
    return ", ".join(
        f"{number} {kind}" + ("" if number == 1 else _plural(kind))
        for kind, number in counts.items()
    )


def _plural(kind: str) -> str:
    return "" if kind.endswith("labels") else "es" if kind[-1] in "xsh" else "s"
