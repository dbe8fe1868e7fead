"""The data set that is made on the fly: `--data demo`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalewise.lab.data.demo_cells import CELLS, draw_cells
from scalewise.lab.data.demo_draw import SHAPES, draw_image
from scalewise.lab.data.faults import BadData

_MANIFEST = "manifest.json"
_VERSION = 2  # of the pictures: raise it when a change draws others
_SPLITS = ("train", "val", "test")
_CLASSES = {"shapes": SHAPES, "cells": CELLS}
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
        if self.kind not in _CLASSES:
            raise BadData(f"demo: no kind '{self.kind}'; there are {', '.join(_CLASSES)}")
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
        try:
            options[key] = kinds[key](value)
        except ValueError as error:
            raise BadData(f"demo: option {key}={value} is no {kinds[key].__name__}") from error
    return DemoOptions(**options)


def make_demo(text: str = "") -> Path:
    """Return the COCO folder of a demo data set, writing it the first time.

    The same options give the same bytes under the same library versions. The folder appears
    whole or not at all, also when several processes ask for it at once.

    Args:
        text: `key=value,...`, see `DemoOptions`.

    Returns:
        The folder.

    Raises:
        BadData: for bad options, or when the folder is there but holds something else.

    Examples:
        >>> from scalewise.data import make_demo
        >>> folder = make_demo("images=10,size=64")
        >>> sorted(path.name for path in folder.iterdir())
        ['annotations', 'manifest.json', 'test', 'train', 'val']
    """
    options = parse_demo_options(text)
    manifest = {"version": _VERSION, "classes": _CLASSES[options.kind], **asdict(options)}
    del manifest["folder"]
    wanted = json.dumps(manifest, indent=1)
    base = Path(options.folder).expanduser()
    folder = base.with_name(f"{base.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            temporary.chmod(0o755)
            _write(temporary, options)
            (temporary / _MANIFEST).write_text(wanted, encoding="utf-8")
            _move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    written = folder / _MANIFEST
    if not written.is_file() or written.read_text(encoding="utf-8") != wanted:
        raise BadData(f"{folder}: is there but is not this demo data set; move it away")
    return folder


def _move(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():  # else another process was first, with the same bytes
            raise


def _write(folder: Path, options: DemoOptions) -> None:
    (folder / "annotations").mkdir()
    for part, name in enumerate(_SPLITS):
        count = options.images if name == "train" else options.images // 5
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / name).mkdir()
        for index in range(count):
            rng = np.random.default_rng([options.seed, part, index])
            if options.kind == "cells":
                pixels, objects = draw_cells(rng, options.size)
            else:
                pixels, objects = draw_image(rng, options.size, options.skew)
            file_name = f"{index:06d}.jpg"
            Image.fromarray(pixels).save(folder / name / file_name, quality=92)
            images.append(
                {
                    "id": index + 1,
                    "file_name": file_name,
                    "width": options.size,
                    "height": options.size,
                }
            )
            for label, (x1, y1, x2, y2) in objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        names = enumerate(_CLASSES[options.kind], start=1)
        categories = [{"id": label, "name": name} for label, name in names]
        table = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / "annotations" / f"instances_{name}.json"
        path.write_text(json.dumps(table), encoding="utf-8")
