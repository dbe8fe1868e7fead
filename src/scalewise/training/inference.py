"""A trained run put to work: evaluation on a split, prediction on images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from scalewise.data import DetectionDataset, make_loader, open_split
from scalewise.data.split import ImageRecord, Objects, Split
from scalewise.detectors import DenseDetector
from scalewise.detectors.pyramid import level_names
from scalewise.errors import UserError
from scalewise.evaluation import ImageDetections, to_original
from scalewise.training import runs
from scalewise.training.config import TrainConfig
from scalewise.training.fit import build_detector, loader_workers, open_splits
from scalewise.training.picture import level_color
from scalewise.training.scoring import score


@dataclass
class TrainedRun:
    """What a run folder holds that can be used again.

    Attributes:
        folder: The run folder.
        config: Its options.
        classes: Names of the classes, in the order of the labels.
        detector: In evaluation mode, with the weights of the checkpoint.
        device: Where the detector is.
    """

    folder: Path
    config: TrainConfig
    classes: list[str]
    detector: DenseDetector
    device: torch.device


def load_run(folder: Path, kind: str = "best", device: str = "auto") -> TrainedRun:
    """Load a run for evaluation or prediction.

    Args:
        folder: The run folder.
        kind: Which checkpoint, "best" or "last".
        device: "auto", or a torch device.

    Raises:
        UserError: when the folder is no run or the checkpoint does not fit.
    """
    config = runs.load_config(folder)
    classes = runs.load_json(folder / "environment.json")["classes"]
    path = runs.checkpoint(folder, kind)
    detector = build_detector(config, len(classes), None)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "detector."
    try:
        detector.load_state_dict(
            {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        )
    except RuntimeError as error:
        raise runs.RunError(f"{path} does not fit {folder / 'config.yaml'}: {error}") from None
    where = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    detector.to(where).eval()
    return TrainedRun(folder, config, classes, detector, where)


@torch.inference_mode()
def evaluate(
    run: TrainedRun, data: str | None, split_name: str | None
) -> tuple[Path, dict[str, float]]:
    """Average precision of a run on a split.

    Args:
        run: A loaded run.
        data: Data set; the run's own when None.
        split_name: Name of the split; the run's validation split when None.

    Returns:
        The JSON file written into the run folder, and the metrics.

    Raises:
        UserError: when the data cannot be read or have other classes.
    """
    config = run.config
    if data is None and split_name is None:
        split = open_splits(config)[1]
    else:
        split = open_split(
            data or config.data, split_name or config.val_split, skip_bad=config.skip_bad
        )
    if list(split.classes) != run.classes:
        raise UserError(
            f"{data or config.data} has the classes {list(split.classes)}, but {run.folder} was "
            f"trained on {run.classes}"
        )
    metrics = score(split, list(detect_all(run, split)))
    path = _unused(run.folder / f"evaluation-{split.name}.json")
    runs.write_json(
        path,
        {
            "data": data or config.data,
            "split": split.name,
            "images": len(split.records),
            "skipped": split.skipped,
            "metrics": metrics,
        },
    )
    return path, metrics


@torch.inference_mode()
def predict(
    run: TrainedRun, images: Iterable[Path], out: Path, threshold: float
) -> tuple[Path, list[str]]:
    """Draw detections on images and write them as JSON.

    Args:
        run: A loaded run.
        images: Image files, or folders of them.
        out: Folder for the pictures and `predictions.json`; made where missing, never overwritten.
        threshold: Least score of a box that is drawn and written.

    Returns:
        The folder that was written, and one line for each file that could not be read.

    Raises:
        UserError: when there is no readable image.
    """
    levels = list(level_names(run.detector.strides))
    split, unreadable = _split_of(images)
    if not split.records:
        raise UserError("no image could be read: " + ("; ".join(unreadable) or "none was named"))
    folder = _unused(out)
    folder.mkdir(parents=True)
    paths = {record.image_id: record.path for record in split.records}
    written: list[dict[str, object]] = []
    for image in detect_all(run, split):
        path, keep = paths[image.image_id], image.scores >= threshold
        boxes, scores, source = image.boxes[keep], image.scores[keep], image.levels[keep]
        labels = [run.classes[label] for label in image.labels[keep]]
        picture = _unused(folder / f"{path.stem}.png")
        with Image.open(path) as pixels:
            draw(pixels.convert("RGB"), boxes, scores, labels, source, levels).save(picture)
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


def detect_all(run: TrainedRun, split: Split) -> Iterator[ImageDetections]:
    """Detections of every image of a split, in its order."""
    dataset = DetectionDataset(split, run.config.size, augment=False)
    loader = make_loader(
        dataset, run.config.batch_size, shuffle=False, workers=loader_workers(run.config)
    )
    for batch in loader:
        on_device = batch._replace(
            images=batch.images.to(run.device), sizes=batch.sizes.to(run.device)
        )
        yield from to_original(run.detector(on_device), batch)


def _split_of(images: Iterable[Path]) -> tuple[Split, list[str]]:
    """A split without objects from image files, and a line for each file that cannot be read."""
    records: list[ImageRecord] = []
    unreadable: list[str] = []
    for path in _image_files(images):
        try:
            with Image.open(path) as image:
                image.load()
                width, height = image.size
        except (OSError, SyntaxError) as error:
            unreadable.append(f"{path}: {error}")
            continue
        records.append(Objects().record(len(records) + 1, path, width, height))
    split = Split("coco", "images", "command line", ("object",), (1,), records)
    return split, unreadable


def draw(
    image: Image.Image,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: list[str],
    source: np.ndarray,
    levels: list[str],
) -> Image.Image:
    """A copy of the image with its detections, each in the colour of its level.

    Args:
        image: RGB.
        boxes: float [k, 4], (x1, y1, x2, y2) in pixels.
        scores: float [k].
        labels: k class names.
        source: int [k], the level of each box.
        levels: Names of the levels.
    """
    scale = max(1, round(480 / max(image.size)))  # small images are enlarged to hold the text
    canvas = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=12)
    order = np.argsort(scores)  # the best on top
    for i in order:
        color = level_color(int(source[i]))
        x1, y1, x2, y2 = (float(v) * scale for v in boxes[i])
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=2)
        text = f"{labels[i]} {scores[i]:.2f} {levels[int(source[i])]}"
        left, _top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(max(0.0, x1), max(0.0, canvas.width - (right - left) - 4))
        y = y1 - bottom - 3 if y1 - bottom - 3 >= 0 else y1 + 2
        pen.rectangle((x, y, x + right - left + 4, y + bottom + 3), fill=color)
        pen.text((x + 2, y + 1), text, fill="white", font=font)
    return canvas


def _image_files(paths: Iterable[Path]) -> Iterator[Path]:
    suffixes = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        else:
            yield path


def _unused(path: Path) -> Path:
    """The path itself, or with "-2", "-3", ... where it exists."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
