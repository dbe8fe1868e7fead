"""Reader of Pascal VOC folders (Everingham et al., IJCV 2010; the VOC development kit).

VOC counts pixels from 1 and includes both ends: a box over the whole of a W x H image is
(1, 1, W, H). Records hold 0-based edges, so that box becomes (0, 0, W, H): the first corner moves
by one, the second stays. The devkit's overlap with its "+ 1" then equals the plain overlap.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException

from scalewise.lab.data.coco_values import class_name, first_repeated
from scalewise.lab.data.encodings import LARGEST, read_lines, read_text
from scalewise.lab.data.faults import BadData, Faults
from scalewise.lab.data.image_record import ImageRecord
from scalewise.lab.data.split import Split, finish
from scalewise.lab.data.text import is_file, shown
from scalewise.lab.data.voc_lists import (
    Folder,
    find_list,
    image_names,
    no_split,
    read_list,
    voc_folders,
)
from scalewise.lab.data.voc_objects import read_image
from scalewise.lab.data.voc_xml import parse_annotation


def read_voc(root: Path, name: str, tolerance: float) -> Split:
    """Read one split of a VOC folder, or of all years in a devkit folder that have it.

    The classes are the names in *all* annotation files, sorted, so that every split has the same.
    A file `classes.txt` beside `Annotations` (one name per line) fixes them instead.

    Args:
        root: a folder with Annotations, ImageSets and JPEGImages, or one that holds such folders.
        name: the split.
        tolerance: share of images and objects with a fault, see `Faults.raise_beyond`.

    Returns:
        The split.

    Raises:
        BadData: the folder or the split does not exist, or there are too many faults.
    """
    folders = voc_folders(root)
    if not folders:
        raise BadData(f"{root}: not a VOC folder: there is no Annotations folder in it")
    lists = [(folder, found) for folder in folders if (found := find_list(folder, name))]
    if not lists:
        raise BadData(no_split(root, folders, name))
    faults = Faults()
    classes = _class_names(folders)
    labels = {label: index for index, label in enumerate(classes)}
    records: list[ImageRecord] = []
    for path, list_path in lists:
        folder = Folder(path, image_names(path), list_path)
        for stem in read_list(folder, faults):
            record = read_image(folder, stem, len(records) + 1, labels, faults)
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


def _class_names(folders: list[Path]) -> tuple[str, ...]:
    stated = [folder / "classes.txt" for folder in folders if is_file(folder / "classes.txt")]
    if stated:
        try:
            names = [line.strip() for line in read_lines(stated[0])]
        except (OSError, ValueError) as error:
            raise BadData(f"{stated[0]}: cannot be read as class names: {error}") from None
        names = [class_name(name) for name in names if name]
        if (twice := first_repeated(names)) is not None:
            raise BadData(f"{stated[0]}: class {shown(twice)} is named twice")
        return tuple(names)
    found: set[str] = set()
    for folder in folders:
        for path in (folder / "Annotations").glob("*.xml"):
            try:
                written = parse_annotation(read_text(path, LARGEST))
            except (ParseError, DefusedXmlException, OSError, ValueError):
                continue  # a fault of the split that lists it
            found.update(item.name or "" for item in written.objects)
    return tuple(sorted(found - {""}))
