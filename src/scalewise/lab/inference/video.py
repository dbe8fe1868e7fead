"""Writes videos with detections drawn on every frame."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scalewise.files import whole
from scalewise.lab.data.dataset import Item
from scalewise.lab.data.faults import BadData
from scalewise.lab.data.loader import Collate
from scalewise.lab.data.text import is_hidden_copy, require_regular
from scalewise.lab.data.transforms import as_boxes, eval_transforms
from scalewise.lab.evaluation import ImageDetections, to_original
from scalewise.lab.inference.trained import Detecting
from scalewise.lab.inference.video_frames import Frame, Pixels, Reading, why

_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}
_SUFFIXES |= {".3gp", ".ogv", ".mts", ".m2ts"}
_QUALITY = {"crf": "20"}
_BT601, _LIMITED = 6, 1  # of ITU-T H.273; without them players guess, by the size of the picture

Paint = Callable[[Pixels, float, ImageDetections], Image.Image]


def is_video(path: Path) -> bool:
    """Whether a file is named like a video."""
    return path.suffix.lower() in _SUFFIXES and not is_hidden_copy(path)


def redraw(path: Path, out: Path, run: Detecting, paint: Paint) -> tuple[float, str]:
    """Write a copy of a video with painted frames, at the same times, without sound.

    Args:
        path: The video.
        out: The .mp4 file to write.
        run: The detector.
        paint: Called with a frame's pixels, its time in seconds and its detections (their
            `image_id` is the number of the frame, from 0); returns the picture to show instead.

    Returns:
        Frames per second, and a line about frames that could not be read; the line is empty if all
        could.

    Raises:
        BadData: no frame could be read, or the package `av` is missing. Then nothing is written.
    """
    try:
        import av
    except ImportError:
        raise BadData(
            f"{path}: the package 'av' is missing: pip install 'scalewise[video]'"
        ) from None
    try:
        require_regular(path)
        source = av.open(str(path))
    except FileNotFoundError:
        raise BadData(f"{path}: no such video file") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read as a video: {why(error)}") from None
    with source:
        if not source.streams.video:
            raise BadData(f"{path}: has no pictures, only sound or text")
        reading = Reading(source, source.streams.video[0])
        with whole(out) as aside:
            count = _draw_all(reading, aside, run, paint)
            if not count:
                raise BadData(f"{path}: none of its frames can be read{reading.reason}")
    return float(reading.rate), reading.damage(path, out, count)


def _draw_all(reading: Reading, out: Path, run: Detecting, paint: Paint) -> int:
    """Draw all frames; return their number."""
    import av

    frames, count = iter(reading), 0
    sink: Any = None
    try:
        while batch := list(islice(frames, run.batch_size)):
            for frame, found in zip(batch, _detect(run, batch, count), strict=True):
                seconds = round(float(frame.time * frame.unit), 4)
                picture = _even(np.asarray(paint(frame.pixels, seconds, found)))
                if sink is None:
                    sink = av.open(str(out), "w")
                    stream = _add_stream(sink, reading, frame.unit, picture)
                if picture.shape[:2] != (stream.height, stream.width):
                    size = (stream.width, stream.height)
                    picture = np.asarray(Image.fromarray(picture).resize(size))
                shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
                shown.pts, shown.time_base = frame.time, frame.unit
                sink.mux(stream.encode(shown))
                count += 1
        if sink is not None:
            sink.mux(stream.encode())
    finally:
        if sink is not None:
            sink.close()
    return count


def _add_stream(sink: Any, reading: Reading, unit: Fraction, picture: Pixels) -> Any:
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = sink.add_stream(
        codec, rate=reading.rate, options=_QUALITY if codec == "libx264" else {}
    )
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = unit
    stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
    if reading.aspect:
        stream.codec_context.sample_aspect_ratio = reading.aspect
    return stream


def _detect(run: Detecting, frames: list[Frame], first: int) -> list[ImageDetections]:
    resize = eval_transforms(run.size)
    items = []
    for number, frame in enumerate(frames, start=first):
        height, width = frame.pixels.shape[:2]
        image = torch.from_numpy(frame.pixels).permute(2, 0, 1).contiguous()
        labels = torch.zeros(0, dtype=torch.int64)
        target = {"boxes": as_boxes(torch.zeros(0, 4), height, width), "labels": labels}
        image, _ = resize(image, target)
        scale = (image.shape[2] / width, image.shape[1] / height)
        items.append(Item(image, torch.zeros(0, 4), labels, scale, number))
    batch = Collate(run.size)(items)
    return to_original(run.detect(batch), batch)


def _even(pixels: Pixels) -> Pixels:
    """Repeat the last row or column if its number is odd: the video format needs even sides."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
