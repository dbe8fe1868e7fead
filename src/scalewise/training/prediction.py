"""A trained run put to work on images: detections drawn on them, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image

from scalewise.data import load_image
from scalewise.data.faults import BadData
from scalewise.data.images import is_image, walk
from scalewise.data.split import ImageRecord, Objects, Split
from scalewise.data.text import printable
from scalewise.detectors.pyramid import level_names
from scalewise.errors import UserError
from scalewise.training import runs
from scalewise.training.drawing import draw
from scalewise.training.inference import TrainedRun, detect_all, unused

_LONGEST = 60  # letters of an image's name in its picture's: four bytes each, and a file's has 255


@torch.inference_mode()
def predict(
    run: TrainedRun, images: Iterable[Path], out: Path, threshold: float
) -> tuple[Path, list[str]]:
    """Draw detections on images and write them as JSON.

    Images are taken upright, as viewers show them, and so are the boxes.

    Args:
        run: A loaded run.
        images: Image files, or folders, of which every image file is taken, in sub-folders too.
        out: Folder for the pictures and `predictions.json`; made where missing, never overwritten.
        threshold: Least score of a box that is drawn and written.

    Returns:
        The folder that was written, and one line for each file that could not be read.

    Raises:
        UserError: when there is no readable image.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.data import open_split
        >>> from scalewise.training.inference import load_run
        >>> from scalewise.training.prediction import predict
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> images = [record.path for record in open_split(run.config.data, "test").records]
        >>> folder, unreadable = predict(run, images, Path("drawn"), threshold=0.3)
        >>> len(list(folder.glob("*.png"))) == len(images), unreadable
        (True, [])
    """
    levels = list(level_names(run.detector.strides))
    split, unreadable = _split_of(images)
    if not split.records:
        raise UserError("no image could be read: " + ("; ".join(unreadable) or "none was named"))
    folder = unused(out)
    folder.mkdir(parents=True)
    paths = {record.image_id: record.path for record in split.records}
    written: list[dict[str, object]] = []
    for image in detect_all(run, split):
        path, keep = paths[image.image_id], image.scores >= threshold
        boxes, scores, source = image.boxes[keep], image.scores[keep], image.levels[keep]
        labels = [run.classes[label] for label in image.labels[keep]]
        picture = unused(folder / f"{printable(path.stem)[:_LONGEST]}.png")
        try:
            pixels = Image.fromarray(load_image(path))
        except BadData as error:  # it has changed since
            unreadable.append(str(error))
            continue
        draw(pixels, boxes, scores, labels, source, levels).save(picture)
        found = [
            {
                "box": [round(float(edge), 2) for edge in box],
                "score": round(float(value), 4),
                "class": label,
                "level": levels[level],
            }
            for box, value, label, level in zip(boxes, scores, labels, source, strict=True)
        ]
        written.append({"image": str(path), "picture": picture.name, "detections": found})
    runs.write_json(folder / "predictions.json", written)
    return folder, unreadable


def _split_of(images: Iterable[Path]) -> tuple[Split, list[str]]:
    """A split without objects from image files, and a line for each file that cannot be read."""
    records: list[ImageRecord] = []
    unreadable: list[str] = []
    for path in _image_files(images, unreadable):
        try:
            height, width = load_image(path).shape[:2]
        except BadData as error:
            unreadable.append(str(error))
            continue
        records.append(Objects().record(len(records) + 1, path, width, height))
    split = Split("coco", "images", "command line", ("object",), (1,), records, tolerance=math.inf)
    return split, unreadable


def _image_files(paths: Iterable[Path], unreadable: list[str]) -> Iterator[Path]:
    for path in paths:
        try:
            files = list(walk(path)) if path.is_dir() else None
        except (OSError, ValueError) as error:
            unreadable.append(printable(f"{path}: {error}"))
            continue
        if files is None:
            yield path
            continue
        found = [file for file in files if is_image(file)]
        if not found:
            unreadable.append(printable(f"{path}: no image among its {len(files)} files"))
        yield from found
