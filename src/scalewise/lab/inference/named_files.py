"""Finds the files that a user named, directly or by their folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scalewise.lab.data.image_files import is_image, walk
from scalewise.lab.data.text import printable
from scalewise.lab.inference.video import is_video


def unique(files: Iterable[Path]) -> list[Path]:
    """Drop repeated files; the first name of each is kept."""
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(os.path.abspath(file), file)
    return list(first.values())


def named_files(paths: Iterable[Path], unreadable: list[str]) -> Iterator[Path]:
    """Yield the files, and the images and videos in the folders and below them.

    Args:
        paths: Files and folders.
        unreadable: Gets a line for each folder that cannot be listed or has no image or video.
    """
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
            unreadable.append(printable(f"{path}: no image or video among its {len(files)} files"))
        yield from found
