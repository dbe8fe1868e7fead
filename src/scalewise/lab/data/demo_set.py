"""The demo data set, drawn when it is first used: `--data demo`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalewise.files import WriteError, make_folder
from scalewise.lab.data.demo_cells import draw_cells
from scalewise.lab.data.demo_draw import draw_image
from scalewise.lab.data.demo_options import DEMO_CLASSES, DemoOptions, parse_demo_options
from scalewise.lab.data.faults import BadData

_MANIFEST = "manifest.json"
_VERSION = 2  # of the pictures: raise it when a change of the code changes them
_SPLITS = ("train", "val", "test")


def make_demo(text: str = "") -> Path:
    """Return the COCO folder of a demo data set; the first call writes it.

    The same options give the same bytes under the same library versions. The folder appears
    complete or not at all, even if several processes ask for it at once.

    Args:
        text: `key=value,...`, see `DemoOptions`.

    Returns:
        The folder.

    Raises:
        BadData: the options are bad, or the folder exists but holds something else.
        WriteError: the folder cannot be written, for example because the disk is full.

    Examples:
        >>> from scalewise.data import make_demo
        >>> folder = make_demo("images=10,size=64")
        >>> sorted(path.name for path in folder.iterdir())
        ['annotations', 'manifest.json', 'test', 'train', 'val']
    """
    options = parse_demo_options(text)
    manifest = {"version": _VERSION, "classes": DEMO_CLASSES[options.kind], **asdict(options)}
    del manifest["folder"]
    wanted = json.dumps(manifest, indent=1)
    base = Path(options.folder).expanduser()
    folder = base.with_name(f"{base.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}")
    if not folder.exists():
        make_folder(folder.parent)
        try:
            _make(folder, options, wanted)
        except OSError as error:
            why = error.strerror or error
            raise WriteError(f"the demo data {folder} could not be written: {why}") from error
    written = folder / _MANIFEST
    if not written.is_file() or written.read_text(encoding="utf-8") != wanted:
        raise BadData(f"{folder}: it exists but is not this demo data set; move it away")
    return folder


def _make(folder: Path, options: DemoOptions, manifest: str) -> None:
    """Write the data set into a temporary folder beside its place, then move it there."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        _write(temporary, options)
        (temporary / _MANIFEST).write_text(manifest, encoding="utf-8")
        _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        names = enumerate(DEMO_CLASSES[options.kind], start=1)
        categories = [{"id": label, "name": name} for label, name in names]
        table = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / "annotations" / f"instances_{name}.json"
        path.write_text(json.dumps(table), encoding="utf-8")
