"""Where the annotation files and the images of a COCO data set are."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from scalewise.lab.data.faults import BadData
from scalewise.lab.data.names import split_names
from scalewise.lab.data.text import found_in, is_file, is_hidden_copy, on_disk, shown

_ROBOFLOW = "_annotations.coco.json"
_SAMPLE = 20  # number of images that are looked for to find their folder


def coco_files(path: Path) -> dict[Path, str]:
    """Return the annotation files at `path` and the name of the split each one holds.

    Args:
        path: a data set's folder, or one of its annotation files; the others lie beside it.

    Returns:
        File to split name: `instances_val2017.json` holds `val2017`, `valid/_annotations.coco.json`
        (the layout of Roboflow exports) holds `valid`.
    """
    if path.is_file():
        files = [*path.parent.glob("*.json"), *path.parent.parent.glob(f"*/{_ROBOFLOW}")]
    else:
        folders = (path / "annotations", path / "coco", path)
        files = [found for folder in folders for found in folder.glob("*.json")]
        files += path.glob(f"*/{_ROBOFLOW}")
    return {
        file: file.parent.name if file.name == _ROBOFLOW else file.stem.removeprefix("instances_")
        for file in sorted(files)
        if not is_hidden_copy(file)
    }


def find_file(path: Path, name: str) -> Path:
    """Return the annotation file of a split.

    Args:
        path: as for `coco_files`.
        name: the split; other usual names and a year are found too (`val` finds `val2017`).

    Raises:
        BadData: there is none, or more than one.
    """
    files = coco_files(path)
    for wanted in (name, *split_names(name)):
        exact = [file for file, held in files.items() if held == wanted]
        dated = [f for f, held in files.items() if re.fullmatch(rf"{re.escape(wanted)}\d+", held)]
        for matches in (exact, dated):
            if path in matches:
                return path
            if len(matches) > 1:
                both = ", ".join(str(match) for match in matches)
                raise BadData(f"{path}: split '{name}' could be any of {both}; name one of them")
            if matches:
                return matches[0]
    there = ", ".join(sorted(set(files.values()))) or "none"
    raise BadData(f"{path}: no split '{name}'; the annotation files there hold: {there}")


def image_folder(file: Path, name: str, file_names: list[str]) -> Path:
    """Return the folder that holds the images: the one with most of the first 20 files.

    Raises:
        BadData: none of the usual folders holds any of them.
    """
    stem = file.stem.removeprefix("instances_")
    parts = ("", stem, name, f"images/{stem}", f"images/{name}", "images", "JPEGImages")
    bases = (file.parent, file.parent.parent)
    folders = list(dict.fromkeys(base / part for base in bases for part in parts))
    sample = file_names[:_SAMPLE]
    held = [sum(is_file(find_image(folder, each)) for each in sample) for folder in folders]
    if any(held) or not sample:
        return folders[held.index(max(held))]
    there = [folder for folder in folders[1:] if folder.is_dir() and folder not in bases]
    found = "; ".join(f"{folder}: {found_in(folder)}" for folder in there[:3])
    raise BadData(
        f"{file}: its images, such as {shown(sample[0])}{_foreign(sample[0])}, are in none of: "
        + ", ".join(map(str, folders))
        + (f" ({found})" if found else "")
    )


def find_image(folder: Path, file_name: str) -> Path:
    """Return where an image is; the backslashes of Windows paths are understood."""
    path = folder / file_name
    if "\\" in file_name and not is_file(path):
        other = PureWindowsPath(file_name)
        if not other.is_absolute():
            path = folder / other.as_posix()
    return on_disk(path)


def _foreign(file_name: str) -> str:
    if PureWindowsPath(file_name).is_absolute() or file_name.startswith("/"):
        return (
            " (an absolute path, perhaps from another machine: "
            "write it relative to the folder of the images)"
        )
    return ""
