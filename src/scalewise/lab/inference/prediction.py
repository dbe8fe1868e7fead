"""Draws the detections of a trained detector on images and videos, and writes them as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from scalewise.errors import UserError
from scalewise.files import make_folder, whole
from scalewise.lab.data.faults import BadData
from scalewise.lab.data.image_record import ImageRecord, Objects
from scalewise.lab.data.images import load_image, load_shrunk
from scalewise.lab.data.split import Split
from scalewise.lab.data.text import printable
from scalewise.lab.detectors.pyramid import level_names
from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.inference.detecting import detect_all, unused
from scalewise.lab.inference.drawing import draw
from scalewise.lab.inference.formats import ResultNames, write_coco, write_yolo
from scalewise.lab.inference.named_files import named_files, unique
from scalewise.lab.inference.trained import Detecting
from scalewise.lab.inference.video import is_video, redraw
from scalewise.lab.training import runs

_LONGEST = 60  # characters kept of an image's name: 4 bytes each at most, of the 255 allowed
_COMPRESSION = 2  # of PNG: a quarter of the time of Pillow's 6, for files a tenth larger

_NONE = "no image or video could be read"


@dataclass
class _Work:
    """One call of `predict`."""

    run: Detecting
    folder: Path
    limits: npt.NDArray[np.float32]  # [classes]
    names: ResultNames | None
    scores: bool  # whether YOLO lines end with the score
    levels: list[str]
    unreadable: list[str]
    written: list[dict[str, Any]] = field(default_factory=list)

    def kept(self, image: ImageDetections) -> ImageDetections:
        """The detections whose score is at least the threshold of their class."""
        keep = image.scores >= self.limits[image.labels]
        return ImageDetections(
            image.image_id,
            image.boxes[keep],
            image.scores[keep],
            image.labels[keep],
            image.levels[keep],
        )

    def drawn(self, pixels: Image.Image, found: ImageDetections) -> Image.Image:
        """A copy of the image with its detections."""
        labels = [self.run.classes[label] for label in found.labels]
        return draw(pixels, found.boxes, found.scores, labels, found.levels, self.levels)

    def rows(self, found: ImageDetections) -> list[dict[str, Any]]:
        """The detections in the form of `predictions.json`."""
        return [
            {
                "box": [round(float(edge), 3) for edge in box],
                "score": round(float(value), 4),
                "class": self.run.classes[label],
                "level": self.levels[level],
            }
            for box, value, label, level in zip(
                found.boxes, found.scores, found.labels, found.levels, strict=True
            )
        ]


@torch.inference_mode()
def predict(
    run: Detecting,
    images: Iterable[Path],
    out: Path,
    threshold: float | Sequence[float],
    save_txt: bool = False,
    save_conf: bool = False,
    save_coco: bool = False,
    like: Split | None = None,
) -> tuple[Path, list[str]]:
    """Draw detections on images and videos and write them as JSON.

    Images are turned upright, as viewers show them; boxes are in the upright image. A file that is
    named twice is used once.

    Args:
        run: A loaded run, or a detector from an exported file.
        images: Image and video files, or folders; all images and videos in a folder and its
            sub-folders are used.
        out: Folder for the pictures, videos and `predictions.json`. If it exists, a new folder with
            "-2" added to the name is made.
        threshold: Lowest score of a box that is drawn and written: one number for all classes, or
            one for each class.
        save_txt: Also write YOLO lines to the folder `labels`, one file for each image or frame;
            see `formats.write_yolo`.
        save_conf: Add the score to each of these lines.
        save_coco: Also write the detections on images (not on videos) as COCO results, `coco.json`.
        like: The data set whose image and category ids are used in `coco.json`. Images that are not
            in it get new ids.

    Returns:
        The folder that was written, and one line for each file that could not be read, or only in
        part.

    Raises:
        UserError: no image or video could be read, or `like` lacks a class.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.data import open_split
        >>> from scalewise.lab.inference.trained import load_run
        >>> from scalewise.lab.inference.prediction import predict
        >>> run = load_run(Path("runs/first"), "last", device="cpu")
        >>> images = [record.path for record in open_split(run.config.data, "test").records]
        >>> folder, unreadable = predict(run, images, Path("drawn"), threshold=0.3)
        >>> len(list(folder.glob("*.png"))) == len(images), unreadable
        (True, [])
    """
    named, unreadable = list(images), list[str]()
    files = unique(named_files(named, unreadable))
    split = _split_of(run, [file for file in files if not is_video(file)], unreadable, like)
    videos = [file for file in files if is_video(file)]
    if not split.records and not videos:
        raise UserError(f"{_NONE}: " + ("; ".join(unreadable) or "none was named"))
    folder = unused(out)
    make_folder(folder)
    limits = np.broadcast_to(np.asarray(threshold, np.float32), (len(run.classes),))
    names = ResultNames(folder / "labels", named) if save_txt else None
    work = _Work(run, folder, limits, names, save_conf, list(level_names(run.strides)), unreadable)
    found = list(_on_images(work, split))
    for video in videos:
        _on_video(work, video)
    if not work.written:
        folder.rmdir()
        raise UserError(f"{_NONE}: " + "; ".join(unreadable))
    runs.write_json(folder / "predictions.json", work.written)
    if save_coco:
        write_coco(folder, split, found, like)
    return folder, unreadable


def _on_images(work: _Work, split: Split) -> Iterator[ImageDetections]:
    """Draw the detections of each image, add them to `work.written`, and yield them."""
    records = {record.image_id: record for record in split.records}
    for image in detect_all(work.run, split):
        record = records[image.image_id]
        path = record.path
        try:
            pixels = Image.fromarray(load_image(path))
        except BadData as error:  # the file has changed since it was first read
            work.unreadable.append(str(error))
            continue
        found = work.kept(image)
        picture = unused(work.folder / f"{printable(path.stem)[:_LONGEST]}.png")
        with whole(picture) as aside:
            work.drawn(pixels, found).save(aside, compress_level=_COMPRESSION)
        if work.names is not None:
            write_yolo(work.names.of(path), found, record.width, record.height, work.scores)
        work.written.append(
            {"image": str(path), "picture": picture.name, "detections": work.rows(found)}
        )
        yield found


def _on_video(work: _Work, path: Path) -> None:
    """Draw the detections of each frame of a video, and add them to `work.written`."""
    target = unused(work.folder / f"{printable(path.stem)[:_LONGEST]}.mp4")
    labels = work.names.frames_of(path) if work.names is not None else None
    frames: list[dict[str, Any]] = []

    def paint(pixels: npt.NDArray[np.uint8], seconds: float, image: ImageDetections) -> Image.Image:
        found = work.kept(image)
        number = image.image_id
        if labels is not None:
            height, width = pixels.shape[:2]
            write_yolo(labels / f"{number:06d}.txt", found, width, height, work.scores)
        frames.append({"frame": number, "seconds": seconds, "detections": work.rows(found)})
        return work.drawn(Image.fromarray(pixels), found)

    try:
        rate, damage = redraw(path, target, work.run, paint)
    except BadData as error:
        work.unreadable.append(str(error))
        return
    if damage:
        work.unreadable.append(damage)
    work.written.append(
        {"video": str(path), "picture": target.name, "frame_rate": rate, "frames": frames}
    )


def _split_of(
    run: Detecting, files: list[Path], unreadable: list[str], like: Split | None
) -> Split:
    """Make a split without objects from image files; `unreadable` gets a line for each failure."""
    own: dict[str, int] = {}
    categories = tuple(range(1, len(run.classes) + 1))
    if like is not None:
        own = {os.path.realpath(record.path): record.image_id for record in like.records}
        ids = dict(zip(like.classes, like.category_ids, strict=True))
        lacking = [name for name in run.classes if name not in ids]
        if lacking:
            raise UserError(
                f"{like.source} has no class {', '.join(map(repr, lacking[:5]))}, "
                "which the detector finds; name the data that it was trained on"
            )
        categories = tuple(ids[name] for name in run.classes)
    following = max(own.values(), default=0)
    records: list[ImageRecord] = []
    for path in files:
        try:
            _, width, height = load_shrunk(path, run.size)
        except BadData as error:
            unreadable.append(str(error))
            continue
        number = own.pop(os.path.realpath(path), None)
        if number is None:
            number = following = following + 1
        records.append(Objects().record(number, path, width, height))
    classes = tuple(run.classes)
    return Split("coco", "images", "command line", classes, categories, records, tolerance=math.inf)
