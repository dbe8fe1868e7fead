"""Opens what a user gives as `--data`, and returns a checked split."""

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

    Single boxes and images with a fault are left out if they are less than 1 % of the objects and
    less than 1 % of the images. A warning counts them and names the first three.

    Args:
        spec: a folder (VOC, YOLO and COCO are tried in this order), `voc:PATH`, `yolo:PATH` (a
            folder or its YAML file), `coco:PATH` (a folder or an annotation file), `demo` or
            `demo:key=value,...` (drawn when it is first used).
        name: the split; other usual names are found too: `train` finds
            `instances_train2017.json` or `trainval.txt`.
        skip_bad: leave out everything that has a fault, however much it is, also for unknown
            classes and bad ids. A warning and `Split.skipped` report it.
        strict: stop at any fault.

    Returns:
        The split, its objects clipped to their images.

    Raises:
        BadData: the data set does not exist or has too many faults; the message names file and
            fault.
        ValueError: `skip_bad` and `strict` are both set.

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
    """Check that a data set exists and has a known format, without reading all of it.

    Args:
        spec: as for `open_split`.

    Raises:
        BadData: it does not exist, or its format is not known.
    """
    kind, rest = _parts(spec)
    if kind != "demo":
        with _told(rest):
            _format(kind, Path(rest).expanduser())


_READERS = {"voc": read_voc, "yolo": read_yolo, "coco": read_coco}


def _parts(spec: str | Path) -> tuple[str, str]:
    """Return the format ("" if none is named) and the rest."""
    kind, _, rest = str(spec).partition(":")
    return (kind, rest) if kind in ("demo", *_READERS) else ("", str(spec))


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn errors of the system, such as a missing permission or a bad file name, into BadData."""
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
        return "; it is a Windows path, and this system is not Windows"
    return "" if path.is_absolute() else f" in {Path.cwd()}, the folder where the path starts"
