"""The lists of images in a Pascal VOC folder: one for each split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scalewise.lab.data.encodings import read_lines
from scalewise.lab.data.faults import BadData, Faults
from scalewise.lab.data.image_files import is_image_name
from scalewise.lab.data.names import split_names
from scalewise.lab.data.text import found_in, is_file, is_hidden_copy, on_disk

_PER_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")
_MARKED = re.compile(r"(.*\S)\s+(?:-1|0|1)", re.DOTALL)  # a line in the list of one class


@dataclass(frozen=True)
class Folder:
    """One VOC folder.

    Attributes:
        path: path of the folder.
        images: stem to image files, the preferred one first.
        names: the file that lists the images of the split.
    """

    path: Path
    images: dict[str, list[Path]]
    names: Path

    def image(self, stem: str, named: str) -> Path:
        """Return the path where the image is, or should be.

        Args:
            stem: the image's name in the list.
            named: the file name in its annotations; it decides if several files have this stem.
        """
        found = self.images.get(_composed(stem)) or [self.path / "JPEGImages" / f"{stem}.jpg"]
        return next((path for path in found if path.name == named), found[0])

    def xml(self, stem: str) -> Path:
        """Return the path where the annotations of an image are, or should be."""
        return on_disk(self.path / "Annotations" / f"{stem}.xml")


def voc_folders(root: Path) -> list[Path]:
    """Return the VOC folders at `root`: `root` itself, or the years in a devkit folder."""
    if (root / "Annotations").is_dir():
        return [root]
    inside = [root, *(path for path in (root / "VOCdevkit",) if path.is_dir())]
    return sorted(
        child for folder in inside for child in folder.iterdir() if (child / "Annotations").is_dir()
    )


def _lists_folder(folder: Path) -> Path:
    main = folder / "ImageSets" / "Main"
    return main if main.is_dir() else folder / "ImageSets"


def _list_names(folder: Path) -> list[str]:
    lists = (path for path in _lists_folder(folder).glob("*.txt") if not is_hidden_copy(path))
    return sorted(path.stem for path in lists if not _PER_CLASS_LIST.fullmatch(path.stem))


def find_list(folder: Path, name: str) -> Path | None:
    """Return the list of a split, by its name or another usual name; None if there is none."""
    candidates = (_lists_folder(folder) / f"{alias}.txt" for alias in split_names(name))
    return next((path for path in candidates if is_file(path)), None)


def no_split(root: Path, folders: list[Path], name: str) -> str:
    """Return a message: the split is missing, and which splits there are."""
    there = sorted({stem for folder in folders for stem in _list_names(folder)})
    if there:
        return f"{root}: no split '{name}'; the splits there are: {', '.join(there)}"
    wanted = folders[0] / "ImageSets" / "Main" / f"{name}.txt"
    lists = _lists_folder(folders[0])
    found = found_in(lists) if lists.is_dir() else f"there is no {lists}"
    return (
        f"{root}: no split '{name}': there is no {wanted}, a list of images with one name without "
        f"suffix per line; {found}"
    )


def image_names(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of a VOC folder by stem, the preferred one first.

    Raises:
        BadData: there is no JPEGImages folder.
    """
    there = folder / "JPEGImages"
    if not there.is_dir():
        raise BadData(f"{folder}: has no JPEGImages folder for its images; {found_in(folder)}")
    images: dict[str, list[Path]] = {}
    found = filter(is_image_name, there.iterdir())
    for path in sorted(found, key=lambda path: (path.suffix.lower() != ".jpg", path.name)):
        images.setdefault(_composed(path.stem), []).append(path)
    return images


def _composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC); macOS separates letters and accents."""
    return unicodedata.normalize("NFC", name)


def read_list(folder: Folder, faults: Faults) -> Iterable[str]:
    """Yield the stems of the images in a list, each once; a repeated one is a fault.

    Raises:
        BadData: the list cannot be read.
    """
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
