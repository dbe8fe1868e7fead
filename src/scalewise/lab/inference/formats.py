"""Detections in the forms of others: YOLO's text lines and COCO's results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scalewise.files import make_folder, write_text
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation import ImageDetections, coco_results
from scalewise.lab.training import runs


class ResultNames:
    """A text file of its own for every image, in folders that mirror the images'.

    Args:
        folder: In which they lie.
        named: Files and folders that were asked for; what they have in common is left out.
    """

    def __init__(self, folder: Path, named: Sequence[Path]) -> None:
        self.folder = folder
        folders = [path if path.is_dir() else path.parent for path in named]
        self._root = os.path.commonpath([os.path.abspath(path) for path in folders])
        self._taken: set[Path] = set()

    def of(self, image: Path) -> Path:
        """`a/b.txt` for `a/b.jpg`, and `a/b.png.txt` for an `a/b.png` beside it."""
        return self._unused(self._mirrored(image), ".txt")

    def frames_of(self, video: Path) -> Path:
        """The folder `a/b` for the frames of `a/b.mp4`."""
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
    """Write `class cx cy w h` a line, in shares of the image; no line where nothing is found.

    Args:
        file: Its folder is made where it is missing.
        found: Of the image.
        width: Of the image, in pixels.
        height: Likewise.
        scores: Write the score at the end of a line.
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
    """Write `coco.json`, and `coco-images.json` for images whose ids no data set holds.

    Args:
        folder: For both.
        split: The images.
        found: Their detections.
        like: Data whose image ids some of them have.
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
