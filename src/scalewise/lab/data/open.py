"""From what a user writes after `--data` to a checked split."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

from scalewise.lab.data.coco_files import coco_files
from scalewise.lab.data.coco_reader import read_coco
from scalewise.lab.data.demo_set import make_demo
from scalewise.lab.data.faults import FEW, BadData
from scalewise.lab.data.split import Split
from scalewise.lab.data.text import found_in, shown
from scalewise.lab.data.voc_lists import voc_folders
from scalewise.lab.data.voc_reader import read_voc
from scalewise.lab.data.yolo_reader import read_yolo, yolo_file


def open_split(
    spec: str | Path, name: str = "train", *, skip_bad: bool = False, strict: bool = False
) -> Split:
    """Read and check one split of a data set.

    Faults of single boxes or pictures are left out, counted, and the first three named in a
    warning, as long as they touch less than 1 % of the objects and of the images.

    Args:
        spec: a folder (the format is found out: VOC, YOLO, COCO, in this order), `voc:PATH`,
            `yolo:PATH` (a folder or its YAML file), `coco:PATH` (a folder or an annotation file),
            `demo` or `demo:key=value,...` (made on the fly).
        name: the split, leniently: `train` finds `instances_train2017.json` or `trainval.txt`.
        skip_bad: go on with what is sound however much is not, classes and ids included; the rest
            is told as a warning and in `Split.skipped`.
        strict: stop at any fault.

    Returns:
        The split, its objects clipped to their images.

    Raises:
        BadData: for a data set that is not there, or for the faults in it, naming file and fault.
        ValueError: for `skip_bad` together with `strict`.

    Examples:
        >>> from scalewise.data import open_split
        >>> open_split("demo:images=10,size=64", "val").describe()
        'val: 2 images, 3 objects, 5 classes'
    """
    if skip_bad and strict:
        raise ValueError("skip_bad and strict exclude each other")
    tolerance = math.inf if skip_bad else 0.0 if strict else FEW
    kind, rest = _parts(spec)
    if kind == "demo":
        return read_coco(make_demo(rest), name, tolerance)
    with _told(rest):
        path = Path(rest).expanduser()
        return _READERS[_format(kind, path)](path, name, tolerance)


def require_data(spec: str | Path) -> None:
    """Look whether a data set is there and of a known format, without reading it.

    Args:
        spec: as for `open_split`.

    Raises:
        BadData: when it is not.
    """
    kind, rest = _parts(spec)
    if kind != "demo":
        with _told(rest):
            _format(kind, Path(rest).expanduser())


_READERS = {"voc": read_voc, "yolo": read_yolo, "coco": read_coco}


def _parts(spec: str | Path) -> tuple[str, str]:
    """The format, "" where none is named, and the rest."""
    kind, _, rest = str(spec).partition(":")
    return (kind, rest) if kind in ("demo", *_READERS) else ("", str(spec))


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Make BadData of what the system says of names that no file can have, or without rights."""
    try:
        yield
    except BadData:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        named = getattr(error, "filename", None)
        where = f" ({shown(named)})" if named and str(named) != path else ""
        raise BadData(f"{shown(path)}: cannot be read: {why}{where}") from None


def _format(kind: str, path: Path) -> str:
    if not path.exists():
        raise BadData(f"{path}: no such data set folder{_why_missing(path)}")
    if kind == "voc" or (not kind and path.is_dir() and voc_folders(path)):
        if not path.is_dir():
            raise BadData(f"{path}: a VOC data set is a folder, this is a file")
        return "voc"
    if kind == "yolo" or (not kind and yolo_file(path)):
        return "yolo"
    if kind == "coco" or (path in coco_files(path) if path.is_file() else coco_files(path)):
        return "coco"
    raise BadData(
        f"{path}: neither a VOC folder (Annotations, ImageSets/Main, JPEGImages) "
        "nor a YOLO folder (data.yaml) nor a COCO folder (annotations/instances_train*.json); "
        + found_in(path)
    )


def _why_missing(path: Path) -> str:
    if re.match(r"[A-Za-z]:[\\/]|\\\\", str(path)):
        return "; it is a path of Windows, and this is another system"
    return "" if path.is_absolute() else f" in {Path.cwd()}, which the path is relative to"
