"""Reader of Pascal VOC folders (Everingham et al., IJCV 2010; the VOC development kit).

VOC writes 1-based, inclusive pixel indices: a box over the whole of a W x H image is
(1, 1, W, H). Records hold 0-based edges, so that box becomes (0, 0, W, H): the first corner moves
by one, the second stays. The devkit's overlap with its "+ 1" then equals the plain overlap.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException

from scalewise.lab.data.coco_values import class_name
from scalewise.lab.data.faults import BadData, Box, Faults, box_fault, clip_box
from scalewise.lab.data.images import check_image, is_image_name
from scalewise.lab.data.names import split_names
from scalewise.lab.data.split import ImageRecord, Objects, Split, finish
from scalewise.lab.data.text import (
    LARGEST,
    found_in,
    is_file,
    is_hidden_copy,
    on_disk,
    printable,
    read_lines,
    read_text,
    shown,
)
from scalewise.lab.data.voc_xml import WrittenObject, parse_annotation

_PER_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")
_MARKED = re.compile(r"(.*\S)\s+(?:-1|0|1)", re.DOTALL)  # a line of a list of one class
_YES = ("1", "true", "yes")
_NO = ("0", "false", "no", "unspecified", "")


@dataclass(frozen=True)
class _Folder:
    """One VOC folder.

    Attributes:
        path: of the folder.
        images: stem to image files, the one that counts first.
        names: the list of the images that are wanted.
    """

    path: Path
    images: dict[str, list[Path]]
    names: Path

    def image(self, stem: str, named: str) -> Path:
        """Where the image is, or ought to be.

        Args:
            stem: its name in the list.
            named: its file's name in its annotations, which chooses between several of one stem.
        """
        found = self.images.get(_composed(stem)) or [self.path / "JPEGImages" / f"{stem}.jpg"]
        return next((path for path in found if path.name == named), found[0])

    def xml(self, stem: str) -> Path:
        """Where the annotations are, or ought to be."""
        return on_disk(self.path / "Annotations" / f"{stem}.xml")


def voc_folders(root: Path) -> list[Path]:
    """Return the VOC folders at `root`: itself, or the years inside a devkit folder."""
    if (root / "Annotations").is_dir():
        return [root]
    inside = [root, *(path for path in (root / "VOCdevkit",) if path.is_dir())]
    return sorted(
        child for folder in inside for child in folder.iterdir() if (child / "Annotations").is_dir()
    )


def read_voc(root: Path, name: str, tolerance: float) -> Split:
    """Read one split of a VOC folder, or of all years of a devkit folder that have it.

    The classes are the names in *all* annotation files, sorted, so that every split has the same;
    a file `classes.txt` beside `Annotations` (one name per line) fixes them instead.

    Args:
        root: a folder with Annotations, ImageSets and JPEGImages, or one holding such folders.
        name: the split.
        tolerance: share of images and objects that may be at fault, see `Faults.raise_beyond`.

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
        raise BadData(_no_split(root, folders, name))
    faults = Faults()
    classes = _class_names(folders)
    labels = {label: index for index, label in enumerate(classes)}
    records: list[ImageRecord] = []
    for path, list_path in lists:
        folder = _Folder(path, _images(path), list_path)
        for stem in _read_list(folder, faults):
            record = _read_image(folder, stem, len(records) + 1, labels, faults)
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
    return finish(split, faults, tolerance)


def _lists_folder(folder: Path) -> Path:
    main = folder / "ImageSets" / "Main"
    return main if main.is_dir() else folder / "ImageSets"


def _list_names(folder: Path) -> list[str]:
    lists = (path for path in _lists_folder(folder).glob("*.txt") if not is_hidden_copy(path))
    return sorted(path.stem for path in lists if not _PER_CLASS_LIST.fullmatch(path.stem))


def _find_list(folder: Path, name: str) -> Path | None:
    candidates = (_lists_folder(folder) / f"{alias}.txt" for alias in split_names(name))
    return next((path for path in candidates if is_file(path)), None)


def _no_split(root: Path, folders: list[Path], name: str) -> str:
    there = sorted({stem for folder in folders for stem in _list_names(folder)})
    if there:
        return f"{root}: no split '{name}'; the splits there are: {', '.join(there)}"
    wanted = folders[0] / "ImageSets" / "Main" / f"{name}.txt"
    lists = _lists_folder(folders[0])
    found = found_in(lists) if lists.is_dir() else f"there is no {lists}"
    return (
        f"{root}: no split '{name}': {wanted} was looked for, a list of images, one name without "
        f"suffix a line; {found}"
    )


def _images(folder: Path) -> dict[str, list[Path]]:
    there = folder / "JPEGImages"
    if not there.is_dir():
        raise BadData(f"{folder}: has no JPEGImages folder for its images; {found_in(folder)}")
    images: dict[str, list[Path]] = {}
    found = filter(is_image_name, there.iterdir())
    for path in sorted(found, key=lambda path: (path.suffix.lower() != ".jpg", path.name)):
        images.setdefault(_composed(path.stem), []).append(path)
    return images


def _composed(name: str) -> str:
    """A name whose letters and accents are one, as most programs write them; macOS parts them."""
    return unicodedata.normalize("NFC", name)


def _read_list(folder: _Folder, faults: Faults) -> Iterable[str]:
    path = folder.names
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read as a list of images: {error}") from None
    seen = set()
    for number, line in enumerate(lines, start=1):
        stem = line.strip(" \t")
        if not stem:
            continue
        marked = _MARKED.fullmatch(stem)
        if marked and not is_file(folder.xml(stem)) and is_file(folder.xml(marked[1])):
            stem = marked[1]
        if stem in seen:
            faults.add(
                "duplicate image", f"{path}, line {number}", f"image '{stem}' is listed twice"
            )
            continue
        seen.add(stem)
        yield stem


def _class_names(folders: list[Path]) -> tuple[str, ...]:
    stated = [folder / "classes.txt" for folder in folders if is_file(folder / "classes.txt")]
    if stated:
        try:
            names = [line.strip() for line in read_lines(stated[0])]
        except (OSError, ValueError) as error:
            raise BadData(f"{stated[0]}: cannot be read as class names: {error}") from None
        names = [class_name(name) for name in names if name]
        if len(set(names)) < len(names):
            raise BadData(f"{stated[0]}: a class is named twice")
        return tuple(names)
    found: set[str] = set()
    for folder in folders:
        for path in (folder / "Annotations").glob("*.xml"):
            try:
                written = parse_annotation(read_text(path, LARGEST))
            except (ParseError, DefusedXmlException, OSError, ValueError):
                continue  # told as a fault by the split that lists it
            found.update(item.name or "" for item in written.objects)
    return tuple(sorted(found - {""}))


def _read_image(
    folder: _Folder, stem: str, image_id: int, labels: dict[str, int], faults: Faults
) -> ImageRecord | None:
    xml = folder.xml(stem)
    try:
        written = parse_annotation(read_text(xml, LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        faults.add(
            "missing annotation",
            str(xml),
            f"no such annotation file, for '{stem}' in {folder.names}",
        )
        return None
    except (ParseError, DefusedXmlException, OSError, ValueError) as error:
        why = str(error) if type(error) in (OSError, ValueError) else printable(repr(error))
        faults.add("broken file", str(xml), f"cannot be read as XML: {why}")
        return None
    width, height = written.size
    if not all(1 <= side < math.inf and side.is_integer() for side in written.size):
        faults.add("missing field", str(xml), "has no size/width and size/height in whole pixels")
        return None
    size = (int(width), int(height))
    path = folder.image(stem, written.file)
    if not check_image(path, faults, size):
        return None
    objects = Objects()
    for number, item in enumerate(written.objects, start=1):
        _read_object(item, f"{xml}, object {number}", size, labels, objects, faults)
    return objects.record(image_id, path, *size)


def _read_object(
    item: WrittenObject,
    where: str,
    size: tuple[int, int],
    labels: dict[str, int],
    objects: Objects,
    faults: Faults,
) -> None:
    name, (x1, y1, x2, y2), difficult = item
    if not name or x1 is None or y1 is None or x2 is None or y2 is None:
        faults.add("missing field", where, "lacks a name or a number in bndbox, or has one twice")
        return
    if name not in labels:
        faults.add("unknown class", where, f"class '{name}' is not in classes.txt")
        return
    where = f"{where} ({name})"
    if difficult not in (*_YES, *_NO):
        faults.add("bad value", where, f"difficult {shown(difficult)} is neither 0 nor 1")
        return
    written: Box = (x1, y1, x2, y2)
    if wrong := box_fault(written):
        faults.add("bad box", where, wrong)
        return
    box = clip_box((x1 - 1, y1 - 1, x2, y2), *size, where, faults)
    if box and not objects.add(box, labels[name], difficult=difficult in _YES):
        faults.add("duplicate object", where, "the same box of the same class is there twice")
