"""Detections drawn on images."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from scalewise.lab.letters import lettering
from scalewise.lab.training.group_style import level_color


def draw(
    image: Image.Image,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: list[str],
    source: np.ndarray,
    levels: list[str],
) -> Image.Image:
    """Draw detections on a copy of the image, each in the colour of its level.

    The copy of a small image is enlarged by a whole factor, so that the text fits.

    Args:
        image: RGB.
        boxes: float [k, 4], (x1, y1, x2, y2) in pixels of `image`.
        scores: float [k].
        labels: k class names.
        source: int [k], the level of each box.
        levels: Names of the levels.
    """
    scale = max(1, round(480 / max(image.size)))
    canvas = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    order = np.argsort(scores)  # the best score is drawn last, on top
    for i in order:
        color = level_color(int(source[i]))
        x1, y1, x2, y2 = (float(v) * scale for v in boxes[i])
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=2)
        text, font = lettering(f"{labels[i]} {scores[i]:.2f} {levels[int(source[i])]}")
        left, _top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(max(0.0, x1), max(0.0, canvas.width - (right - left) - 4))
        y = y1 - bottom - 3 if y1 - bottom - 3 >= 0 else y1 + 2
        pen.rectangle((x, y, x + right - left + 4, y + bottom + 3), fill=color)
        pen.text((x + 2, y + 1), text, fill="white", font=font)
    return canvas
