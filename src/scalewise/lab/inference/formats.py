"""Writes detections in other formats: YOLO's text lines and COCO's results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scalewise.files import make_folder, write_text
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation import ImageDetections, coco_results
from scalewise.lab.training import runs


class ResultNames:
    """Chooses a different text file for every image, in the same sub-folders as the images.

    Args:
        folder: Folder for the text files.
        named: The files and folders that the user named. The part of their paths that all have in
            common is not repeated in `folder`.
    """

    def __init__(self, folder: Path, named: Sequence[Path]) -> None:
        self.folder = folder
        folders = [path if path.is_dir() else path.parent for path in named]
        self._root = os.path.commonpath([os.path.abspath(path) for path in folders])
        self._taken: set[Path] = set()

    def of(self, image: Path) -> Path:
        """Return `a/b.txt` for `a/b.jpg`; if that is taken, such as `a/b.png.txt` for `a/b.png`."""
        return self._unused(self._mirrored(image), ".txt")

    def frames_of(self, video: Path) -> Path:
        """Return the folder `a/b` for the frames of `a/b.mp4`."""
        return self._unused(self._mirrored(video), "")

    def _mirrored(self, path: Path) -> Path:
        return self.folder / os.path.relpath(os.path.abspath(path), self._root)

    def _unused(self, path: Path, suffix: str) -> Path:
        chosen = path.with_suffix(suffix)
        name = path.name
        while chosen in self._taken:
            name += suffix or ".frames"
            chosen = path.with_name(name)
        self._taken.add(chosen)
        return chosen


def write_yolo(file: Path, found: ImageDetections, width: int, height: int, scores: bool) -> None:
    """Write a line `class cx cy w h` for each detection, as fractions of the image's sides.

    `class` is the number of the class, from 0. Without detections the file is empty.

    Args:
        file: The file to write; its folder is made if it is missing.
        found: Detections of the image.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        scores: Add the score to the end of each line.
    """
    lines = []
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        x1, y1, x2, y2 = (float(edge) for edge in box)
        shares = (
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        )
        numbers = " ".join(f"{share:.6f}" for share in shares)
        lines.append(f"{label} {numbers}" + f" {float(score):.6f}" * scores + "\n")
    make_folder(file.parent)
    write_text(file, "".join(lines))


def write_coco(
    folder: Path, split: Split, found: Sequence[ImageDetections], like: Split | None
) -> None:
    """Write `coco.json`, and `coco-images.json` with the images that are not in `like`.

    Args:
        folder: Folder for both files.
        split: The images.
        found: Their detections.
        like: The data set that gave some of the images their ids; None if there is none.
    """
    runs.write_json(folder / "coco.json", coco_results(split, found))
    known = set() if like is None else {record.image_id for record in like.records}
    lone = [record for record in split.records if record.image_id not in known]
    if not lone:
        return
    runs.write_json(
        folder / "coco-images.json",
        {
            "images": [
                {
                    "id": record.image_id,
                    "file_name": str(record.path),
                    "width": record.width,
                    "height": record.height,
                }
                for record in lone
            ],
            "annotations": [],
            "categories": [
                {"id": category, "name": name}
                for category, name in sorted(zip(split.category_ids, split.classes, strict=True))
            ],
        },
    )
