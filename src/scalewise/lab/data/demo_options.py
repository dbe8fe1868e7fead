"""What a demo data set may be made with."""

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
    """What `demo:key=value,...` may set.

    Attributes:
        kind: "shapes", five equally frequent classes of all sizes; or "cells", in the likeness of
            blood smears: nine boxes in ten are red cells, four in a hundred platelets.
        seed: pictures are a function of it.
        skew: each doubling of the object size is `2 ** skew` times rarer; 0 makes all pyramid
            levels alike, the default starves the coarse ones. Of shapes; cells have their sizes.
        images: number of training images; val and test get a fifth of it each.
        size: side of the square images in pixels.
        folder: where to write; the parameters' digest is appended, so that data sets with other
            parameters never mix.

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
            raise BadData(f"demo: folder={self.folder} has no name: give one, as data/demo")
        if self.kind not in DEMO_CLASSES:
            raise BadData(f"demo: no kind '{self.kind}'; there are {', '.join(DEMO_CLASSES)}")
        if self.kind == "cells" and self.skew != _SKEW:
            raise BadData("demo: skew is for shapes; cells have their own sizes: leave it out")


def parse_demo_options(text: str) -> DemoOptions:
    """Read `key=value,...`.

    Raises:
        BadData: for an unknown key or a value of the wrong type.
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
            raise BadData(f"demo: option {key}={value} is no {kinds[key].__name__}") from error
    return DemoOptions(**options)
