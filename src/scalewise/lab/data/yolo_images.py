"""Finds the images of a split of a YOLO data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from scalewise.lab.data.encodings import read_lines
from scalewise.lab.data.faults import BadData
from scalewise.lab.data.image_files import is_image_name, walk
from scalewise.lab.data.names import split_names
from scalewise.lab.data.text import found_in, is_file, on_disk
from scalewise.lab.data.yolo_yaml import is_given

_SPLITS = ("train", "val", "valid", "validation", "test")


def images_of(file: Path, table: dict[Any, Any], name: str) -> Iterator[Path]:
    """Yield the paths where the images of a split are, or should be.

    Args:
        file: the data.yaml.
        table: the content of that file.
        name: the split.

    Raises:
        BadData: there is no such split, or a folder or list of it does not exist.
    """
    there = [key for key in _SPLITS if is_given(table.get(key))]
    key = next((key for key in (name, *split_names(name)) if is_given(table.get(key))), None)
    if key is None:
        raise BadData(
            f"{file}: no split '{name}'; the splits there are: {', '.join(there) or 'none'}"
        )
    entries = table[key] if isinstance(table[key], list) else [table[key]]
    if not all(isinstance(entry, str) for entry in entries):
        raise BadData(f"{file}: '{key}' is neither a path nor a list of paths")
    roots = _roots(file, table)
    for entry in entries:
        found = _find(file, entry, roots)
        if found.is_dir():
            yield from (
                path
                for path in walk(found)
                if is_image_name(path) and not _in_hidden_folder(path, found)
            )
        else:
            yield from _listed(found, roots)


def _in_hidden_folder(path: Path, root: Path) -> bool:
    """Return whether a file is in a folder such as `.ipynb_checkpoints`, which holds copies."""
    return any(part.startswith(".") for part in path.relative_to(root).parts[:-1])


def _roots(file: Path, table: dict[Any, Any]) -> tuple[Path, ...]:
    """Return the folders where paths may start: the one in `path`, and the YAML file's folder."""
    stated = table.get("path")
    if not isinstance(stated, str) or not is_given(stated):
        return (file.parent,)
    try:
        folder = Path(stated).expanduser()
    except RuntimeError:  # ~ of a user that does not exist
        return (file.parent,)
    return tuple(dict.fromkeys((file.parent / folder, folder.absolute(), file.parent)))


def _find(file: Path, entry: str, roots: tuple[Path, ...]) -> Path:
    # Roboflow writes ../train/images where train/images is meant.
    written = dict.fromkeys((entry, _posix(entry)))
    parts = [part for each in written for part in (each, each.removeprefix("../"))]
    tried = [root / part for root in roots for part in parts]
    found = next((path for path in tried if _exists(path)), None)
    if found is None:
        places = ", ".join(dict.fromkeys(str(path) for path in tried))
        windows = " (a Windows path)" if PureWindowsPath(entry).drive else ""
        raise BadData(
            f"{file}: '{entry}'{windows} is at none of: {places} (nothing is downloaded); "
            f"in {file.parent} {found_in(file.parent)}"
        )
    return found


def _posix(entry: str) -> str:
    """Return a path with slashes for the backslashes of Windows."""
    return entry.replace("\\", "/")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _listed(file: Path, roots: tuple[Path, ...]) -> Iterator[Path]:
    try:
        lines = read_lines(file)
    except (OSError, ValueError) as error:
        raise BadData(f"{file}: cannot be read as a list of images: {error}") from None
    for line in filter(None, (line.strip(" \t") for line in lines)):
        places = [
            on_disk(folder / each)
            for each in dict.fromkeys((line, _posix(line)))
            for folder in (file.parent, *roots)
        ]
        yield next((place for place in places if is_file(place)), places[0])
