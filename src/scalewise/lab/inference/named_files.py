"""Files that a call names, in folders too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scalewise.lab.data.image_files import is_image, walk
from scalewise.lab.data.text import printable
from scalewise.lab.inference.video import is_video


def unique(files: Iterable[Path]) -> list[Path]:
    """Each file once, as it was named first."""
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(os.path.abspath(file), file)
    return list(first.values())


def named_files(paths: Iterable[Path], unreadable: list[str]) -> Iterator[Path]:
    """Yield files, and the images and videos of folders; a line is added for each without one."""
    for path in paths:
        before = len(unreadable)
        try:
            files = list(walk(path, unreadable)) if path.is_dir() else None
        except (OSError, ValueError) as error:
            unreadable.append(printable(f"{path}: {error}"))
            continue
        if files is None:
            yield path
            continue
        found = [file for file in files if is_video(file) or is_image(file)]
        if not found and len(unreadable) == before:
            unreadable.append(printable(f"{path}: no image among its {len(files)} files"))
        yield from found
