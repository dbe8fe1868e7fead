"""Pictures of the demo data set: textured shapes of many sizes on cluttered backgrounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.float32]

SHAPES = ("disc", "square", "triangle", "ring", "cross")
_HUES = (0.02, 0.17, 0.35, 0.55, 0.78)
_HUE_SPREAD = 0.05
_PLACING_TRIES = 30
_MAX_IOU = 0.05


def draw_size(rng: np.random.Generator, low: float, high: float, skew: float) -> float:
    """Draw an object size between `low` and `high`.

    Each octave (doubling) of sizes holds `2 ** -skew` times as many objects as the next smaller
    one. With 0 all octaves are equally frequent; above 0 there are more small objects.

    Args:
        rng: source of randomness.
        low: smallest size in pixels.
        high: largest size in pixels.
        skew: each doubling of the size is `2 ** skew` times rarer.

    Returns:
        The size in pixels.
    """
    octaves = np.log2(high / low)
    u = rng.random()
    if abs(skew) < 1e-9:
        return float(low * 2 ** (u * octaves))
    rest = 2.0 ** (-skew * octaves)
    return float(low * 2 ** (-np.log2(1 - u * (1 - rest)) / skew))


def draw_image(
    rng: np.random.Generator, size: int, skew: float
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, tuple[int, int, int, int]]]]:
    """Draw one picture.

    Args:
        rng: source of randomness; the picture is a function of its state.
        size: side of the square picture in pixels.
        skew: see `draw_size`.

    Returns:
        uint8 [size, size, 3] pixels, and for each object its class and box (x1, y1, x2, y2), tight
        around the pixels of which it covers at least half.
    """
    canvas = draw_background(rng, size)
    wanted = min(int(rng.geometric(0.22)), 10) - (rng.random() < 0.03)
    sizes = sorted(draw_size(rng, size / 16, size * 0.75, skew) for _ in range(wanted))
    objects: list[tuple[int, tuple[int, int, int, int]]] = []
    for extent in reversed(sizes):  # large ones first: they would hide small ones
        label = int(rng.integers(len(SHAPES)))
        alpha = draw_shape(SHAPES[label], extent, rng)
        height, width = alpha.shape
        if max(height, width) > size:  # a stretched square may be larger when turned
            continue
        for _ in range(_PLACING_TRIES):
            x, y = (int(rng.integers(size - side + 1)) for side in (width, height))
            box = (x, y, x + width, y + height)
            if all(overlap(box, other) <= _MAX_IOU for _, other in objects):
                _paint(canvas[y : y + height, x : x + width], alpha, label, rng)
                objects.append((label, box))
                break
    canvas += rng.normal(0, 5, canvas.shape).astype(np.float32)
    return canvas.clip(0, 255).astype(np.uint8), objects


def draw_background(rng: np.random.Generator, size: int) -> Pixels:
    """Return a blurred, noisy background, float32 [size, size, 3] in 0..255."""
    tint = rng.integers(70, 166, 3) + rng.integers(-45, 46, (5, 5, 1))
    coarse = (tint + rng.integers(-20, 21, (5, 5, 3))).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 11))):
        points = rng.integers(0, size, (int(rng.integers(2, 5)), 2))
        colour = tuple(int(value) for value in rng.integers(40, 216, 3))
        pen.line([(int(x), int(y)) for x, y in points], fill=colour, width=int(rng.integers(1, 4)))
    return np.asarray(picture).astype(np.float32)


def draw_shape(shape: str, extent: float, rng: np.random.Generator) -> Pixels:
    """Return the coverage, float32 [h, w], of a shape `extent` pixels across, cropped to it."""
    radius = extent / 2
    side = int(np.ceil(extent * 1.5)) + 2
    axis = np.arange(side) - (side - 1) / 2
    stretch = 2 ** rng.uniform(-0.3, 0.3)
    x, y = axis[None, :] * stretch / radius, axis[:, None] / stretch / radius
    turn = rng.uniform(0, 2 * np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if shape == "disc":
        distance = np.hypot(u, v) - 1
    elif shape == "ring":
        distance = np.abs(np.hypot(u, v) - 0.75) - 0.25
    elif shape == "square":
        distance = np.maximum(np.abs(u), np.abs(v)) - 0.8
    elif shape == "triangle":
        angles = np.pi * np.array([1, 3, 5]) / 3
        distance = np.max([u * np.cos(a) + v * np.sin(a) for a in angles], axis=0) - 0.5
    else:
        across = np.maximum(np.abs(u) - 1, np.abs(v) - 0.3)
        distance = np.minimum(across, np.maximum(np.abs(v) - 1, np.abs(u) - 0.3))
    alpha = (0.5 - distance * radius).clip(0, 1).astype(np.float32)
    rows, columns = (np.flatnonzero((alpha >= 0.5).any(axis=axis)) for axis in (1, 0))
    hull: Pixels = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return hull


def _paint(patch: Pixels, alpha: Pixels, label: int, rng: np.random.Generator) -> None:
    """Blend a textured object into `patch`, brighter or darker than the background there."""
    behind = patch.mean() / 255
    value = rng.uniform(0.75, 1.0) if behind < 0.5 else rng.uniform(0.2, 0.4)
    hue = (_HUES[label] + rng.normal(0, _HUE_SPREAD)) % 1.0
    colour = 255 * value * rgb(hue, rng.uniform(0.4, 0.9))
    height, width = alpha.shape
    turn, period = rng.uniform(0, np.pi), rng.uniform(4, 12)
    wave = np.cos(turn) * np.arange(width)[None, :] + np.sin(turn) * np.arange(height)[:, None]
    texture = 1 + rng.uniform(0, 0.3) * np.sin(2 * np.pi * wave / period)
    fill = (texture[..., None] * colour).astype(np.float32)
    patch += alpha[..., None] * (fill - patch)


def rgb(hue: float, saturation: float) -> Pixels:
    """Return a bright colour, float32 [3] in 0..1, from a hue and a saturation in 0..1."""
    ramp = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return (1 + saturation * (ramp.clip(0, 1) - 1)).astype(np.float32)


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)
