"""Drawn pictures that resemble blood smears: about nine boxes in ten are of one class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from scalewise.lab.data.demo_draw import Pixels, draw_shape, overlap

Box = tuple[int, int, int, int]

CELLS = ("red cell", "white cell", "platelet")
_DIRT = len(CELLS)  # specks without a label
_DIRT_SHAPES = ("square", "triangle", "cross")
_SIDES = ((20, 28), (40, 54), (8, 12), (8, 12))  # least and most, in pixels of a picture of 128
_MOST_IOU = (0.08, 0.08, 0.0, 0.0)
_PLACING_TRIES = 30
_HAND = 0.05  # error of box edges as if drawn by hand: standard deviation, in parts of the side
_PLASMA, _NUCLEUS, _RED = (205, 180, 205), (125, 80, 150), (214, 140, 140)


def draw_cells(
    rng: np.random.Generator, size: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, Box]]]:
    """Draw one picture: red cells, often one or two white cells, sometimes platelets, and dirt.

    Red cells are seven to thirteen; a cell that finds no free place is left out.

    Args:
        rng: source of randomness; the picture is a function of its state.
        size: side of the square picture in pixels; cells grow with it.

    Returns:
        uint8 [size, size, 3] pixels, and for each cell its class and box (x1, y1, x2, y2). As if
        drawn by hand, the edges of a box are off by about a twentieth of its side.
    """
    canvas = _draw_ground(rng, size)
    counts = rng.integers(7, 14), rng.binomial(2, 0.45), rng.poisson(0.45), rng.poisson(0.8)
    taken: list[Box] = []
    cells: list[tuple[int, Box]] = []
    for kind in (1, 0, 2, _DIRT):  # large ones first
        for _ in range(int(counts[kind])):
            extent = float(rng.uniform(*_SIDES[kind])) * size / 128
            dirt = _DIRT_SHAPES[int(rng.integers(len(_DIRT_SHAPES)))]
            alpha = draw_shape(dirt if kind == _DIRT else "disc", extent, rng)
            box = _free_place(rng, alpha.shape, size, taken, _MOST_IOU[kind])
            if box is None:
                continue
            taken.append(box)
            _paint(canvas[box[1] : box[3], box[0] : box[2]], alpha, kind, rng)
            if kind != _DIRT:
                cells.append((kind, _by_hand(rng, box, size)))
    canvas += rng.normal(0, 6, canvas.shape).astype(np.float32)
    return canvas.clip(0, 255).astype(np.uint8), cells


def _draw_ground(rng: np.random.Generator, size: int) -> Pixels:
    tint = np.array([225, 205, 205]) + rng.integers(-15, 16, 3)
    coarse = (tint + rng.integers(-14, 15, (4, 4, 3))).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(np.float32)


def _free_place(
    rng: np.random.Generator, sides: tuple[int, ...], size: int, taken: list[Box], most: float
) -> Box | None:
    """Return a box of `sides` (height, width) with an IoU of at most `most` with each other box."""
    height, width = sides
    for _ in range(_PLACING_TRIES):
        x, y = (int(rng.integers(size - side + 1)) for side in (width, height))
        box = (x, y, x + width, y + height)
        if all(overlap(box, other) <= most for other in taken):
            return box
    return None


def _paint(patch: Pixels, alpha: Pixels, kind: int, rng: np.random.Generator) -> None:
    """Blend a cell into `patch` [h, w, 3], in place; `alpha` [h, w] is the cell's coverage."""
    stain = np.array(_NUCLEUS) + rng.normal(0, 10, 3)
    if kind == 0:
        colour = np.array(_RED) + rng.normal(0, 10, 3)
        _blend(patch, 0.9 * alpha, colour)
        pale = draw_shape("disc", 0.45 * patch.shape[1], rng)
        y, x = ((whole - part) // 2 for whole, part in zip(alpha.shape, pale.shape, strict=True))
        _blend(patch[max(y, 0) :, max(x, 0) :], 0.6 * pale, colour + 30)
    elif kind == 1:
        _blend(patch, 0.9 * alpha, np.array(_PLASMA) + rng.normal(0, 8, 3))
        for _ in range(3):  # lobes of the nucleus
            lobe = draw_shape("disc", float(rng.uniform(0.3, 0.5)) * patch.shape[1], rng)
            y, x = (
                int(rng.integers(whole // 8, max(whole // 8 + 1, whole - part - whole // 8)))
                for whole, part in zip(alpha.shape, lobe.shape, strict=True)
            )
            _blend(patch[y:, x:], 0.9 * lobe, stain)
    else:
        _blend(patch, 0.7 * alpha, stain)


def _blend(patch: Pixels, alpha: Pixels, colour: npt.NDArray[np.float64]) -> None:
    """Blend a colour [3] into the upper left part of `patch`, in place, weighted by `alpha`."""
    height, width = min(len(alpha), len(patch)), min(alpha.shape[1], patch.shape[1])
    part = patch[:height, :width]
    part += alpha[:height, :width, None] * (colour.astype(np.float32) - part)


def _by_hand(rng: np.random.Generator, box: Box, size: int) -> Box:
    x1, y1, x2, y2 = box
    sides = np.array([x2 - x1, y2 - y1] * 2)
    moved = (np.array(box) + rng.normal(0, _HAND, 4) * sides).round().clip(0, size)
    left, top, right, bottom = (int(edge) for edge in moved)
    return left, top, max(right, left + 1), max(bottom, top + 1)
