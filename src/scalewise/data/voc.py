"""Reader of Pascal VOC folders (Everingham et al., IJCV 2010; the VOC development kit).

VOC writes 1-based, inclusive pixel indices: a box over the whole of a W x H image is
(1, 1, W, H). Records hold 0-based edges, so that box becomes (0, 0, W, H): the first corner moves
by one, the second stays. The devkit's overlap with its "+ 1" then equals the plain overlap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import parse

from scalewise.data.faults import BadData, Box, Faults, box_fault, check_image, clip_box
from scalewise.data.names import split_names
from scalewise.data.split import ImageRecord, Objects, Split, finish

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_PER_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")


def voc_folders(root: Path) -> list[Path]:
    """Return the VOC folders at `root`: itself, or the years inside a devkit folder."""
    if (root / "Annotations").is_dir():
        return [root]
    inside = [root, *(path for path in (root / "VOCdevkit",) if path.is_dir())]
    return sorted(
        child for folder in inside for child in folder.iterdir() if (child / "Annotations").is_dir()
    )


def read_voc(root: Path, name: str, skip_bad: bool) -> Split:
    """Read one split of a VOC folder, or of all years of a devkit folder that have it.

    The classes are the names in *all* annotation files, sorted, so that every split has the same;
    a file `classes.txt` beside `Annotations` (one name per line) fixes them instead.

    Args:
        root: a folder with Annotations, ImageSets and JPEGImages, or one holding such folders.
        name: the split.
        skip_bad: leave out faulty images and objects instead of raising.

    Returns:
        The split.

    Raises:
        BadData: when the folder or split is not there, or for the faults found.
    """
    folders = voc_folders(root)
    if not folders:
        raise BadData(f"{root}: no VOC folder: there is no Annotations folder in it")
    lists = [(folder, found) for folder in folders if (found := _find_list(folder, name))]
    if not lists:
        there = sorted({stem for folder in folders for stem in _list_names(folder)})
        raise BadData(f"{root}: no split '{name}'; the splits there are: {', '.join(there)}")
    faults = Faults()
    classes = _class_names(folders)
    labels = {label: index for index, label in enumerate(classes)}
    records: list[ImageRecord] = []
    for folder, list_path in lists:
        images = {
            path.stem: path
            for path in sorted((folder / "JPEGImages").glob("*"), reverse=True)
            if path.suffix.lower() in _IMAGE_SUFFIXES
        }
        for stem in _read_list(list_path, faults):
            path = images.get(stem, folder / "JPEGImages" / f"{stem}.jpg")
            xml = folder / "Annotations" / f"{stem}.xml"
            record = _read_image(xml, path, len(records) + 1, labels, faults)
            if record:
                records.append(record)
    split = Split(
        format="voc",
        name=name,
        source=", ".join(str(path) for _, path in lists),
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        records=records,
    )
    return finish(split, faults, skip_bad)


def _lists_folder(folder: Path) -> Path:
    main = folder / "ImageSets" / "Main"
    return main if main.is_dir() else folder / "ImageSets"


def _list_names(folder: Path) -> list[str]:
    stems = (path.stem for path in _lists_folder(folder).glob("*.txt"))
    return sorted(stem for stem in stems if not _PER_CLASS_LIST.fullmatch(stem))


def _find_list(folder: Path, name: str) -> Path | None:
    candidates = (_lists_folder(folder) / f"{alias}.txt" for alias in split_names(name))
    return next((path for path in candidates if path.is_file()), None)


def _read_list(path: Path, faults: Faults) -> Iterable[str]:
    seen = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        stem = line.split()[0]
        if stem in seen:
            faults.add("duplicate id", f"{path}, line {number}", f"image '{stem}' is listed twice")
            continue
        seen.add(stem)
        yield stem


def _class_names(folders: list[Path]) -> tuple[str, ...]:
    stated = [folder / "classes.txt" for folder in folders if (folder / "classes.txt").is_file()]
    if stated:
        names = [line.strip() for line in stated[0].read_text(encoding="utf-8").splitlines()]
        names = [name for name in names if name]
        if len(set(names)) < len(names):
            raise BadData(f"{stated[0]}: a class is named twice")
        return tuple(names)
    found: set[str] = set()
    for folder in folders:
        for path in (folder / "Annotations").glob("*.xml"):
            try:
                tree = parse(path)
            except (ParseError, DefusedXmlException, OSError):
                continue  # told as a fault by the split that lists it
            found.update((item.findtext("name") or "").strip() for item in tree.iter("object"))
    return tuple(sorted(found - {""}))


def _read_image(
    xml: Path, path: Path, image_id: int, labels: dict[str, int], faults: Faults
) -> ImageRecord | None:
    try:
        tree = parse(xml)
    except FileNotFoundError:
        faults.add("missing annotation", str(xml), "no such annotation file")
        return None
    except (ParseError, DefusedXmlException, OSError) as error:
        faults.add("broken file", str(xml), f"cannot be read as XML: {error!r}")
        return None
    width, height = (_number(tree, f"size/{side}") for side in ("width", "height"))
    if not (width and height and 1 <= width < math.inf and 1 <= height < math.inf):
        faults.add("missing field", str(xml), "has no size/width and size/height in pixels")
        return None
    size = (int(width), int(height))
    if not check_image(path, *size, faults):
        return None
    objects = Objects()
    for number, item in enumerate(tree.iter("object"), start=1):
        _read_object(item, f"{xml}, object {number}", size, labels, objects, faults)
    return objects.record(image_id, path, *size)


def _read_object(
    item: Element,
    where: str,
    size: tuple[int, int],
    labels: dict[str, int],
    objects: Objects,
    faults: Faults,
) -> None:
    name = (item.findtext("name") or "").strip()
    x1, y1, x2, y2 = (_number(item, f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax"))
    if not name or x1 is None or y1 is None or x2 is None or y2 is None:
        faults.add("missing field", where, "lacks a name or a number in bndbox")
        return
    if name not in labels:
        faults.add("unknown class", where, f"class '{name}' is not in classes.txt")
        return
    written: Box = (x1, y1, x2, y2)
    if wrong := box_fault(written):
        faults.add("bad box", f"{where} ({name})", wrong)
        return
    box = clip_box((x1 - 1, y1 - 1, x2, y2), *size, f"{where} ({name})", faults)
    if box:
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        objects.add(box, labels[name], difficult=difficult)


def _number(item: Element | ElementTree, path: str) -> float | None:
    try:
        return float(item.findtext(path) or "")
    except ValueError:
        return None
