"""The options of a demo data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalewise.lab.data.demo_cells import CELLS
from scalewise.lab.data.demo_draw import SHAPES
from scalewise.lab.data.faults import BadData

DEMO_CLASSES = {"shapes": SHAPES, "cells": CELLS}
_SKEW = 0.5


@dataclass(frozen=True)
class DemoOptions:
    """The options of `demo:key=value,...`.

    Attributes:
        kind: "shapes", five equally frequent classes of many sizes; or "cells", like blood smears:
            about nine boxes in ten are red cells, four in a hundred platelets.
        seed: other seeds give other pictures.
        skew: each doubling of the size of a shape is `2 ** skew` times rarer. With 0 all pyramid
            levels get about equally many; by default the coarse ones get fewer. Not for cells.
        images: number of training images, at least 5; val and test get a fifth of it each.
        size: side of the square images in pixels, at least 64.
        folder: where to write; a digest of the other options is appended to the name, so that data
            sets with other options never mix.

    Raises:
        BadData: an option is out of range.

    Examples:
        >>> from scalewise.data import DemoOptions
        >>> DemoOptions(kind="cells", images=50).size  # as in "demo:kind=cells,images=50"
        192
    """

    kind: str = "shapes"
    seed: int = 0
    skew: float = _SKEW
    images: int = 400
    size: int = 192
    folder: str = "data/demo"

    def __post_init__(self) -> None:
        if self.images < 5 or self.size < 64 or self.seed < 0 or not abs(self.skew) <= 8:
            raise BadData(
                "demo: needs images >= 5, size >= 64, seed >= 0 and -8 <= skew <= 8, "
                f"got {asdict(self)}"
            )
        if not Path(self.folder).name:
            raise BadData(f"demo: folder={self.folder} has no name: give one, such as data/demo")
        if self.kind not in DEMO_CLASSES:
            raise BadData(f"demo: no kind '{self.kind}'; there are {', '.join(DEMO_CLASSES)}")
        if self.kind == "cells" and self.skew != _SKEW:
            raise BadData("demo: skew is for shapes; cells have their own sizes: leave it out")


def parse_demo_options(text: str) -> DemoOptions:
    """Read `key=value,...`.

    Raises:
        BadData: an unknown key, a key given twice, or a value of the wrong type or out of range.
    """
    kinds = {key: type(value) for key, value in asdict(DemoOptions()).items()}
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in kinds:
            raise BadData(f"demo: unknown option '{key}'; there are {', '.join(kinds)}")
        if key in options:
            raise BadData(f"demo: option {key} is given twice")
        try:
            options[key] = kinds[key](value)
        except ValueError as error:
            kind = kinds[key].__name__
            raise BadData(f"demo: option {key}={value} is not of type {kind}") from error
    return DemoOptions(**options)
