"""Draw training sets on which weights by share of the positives do not help.

    python benchmarks/misleading.py make data/misleading
    python benchmarks/misleading.py plan data/misleading --seeds 3

They test the rule `share`, which gives rare classes more weight, whatever they look like:

rare-easy   The rare class is easy: large, in full colour, unlike all others. The frequent classes
            are hard: small, faint and of one colour. Only their outlines differ from each other,
            and from shapes without a label. Weight on the rare class gains nothing. "A frequent
            class is hard" and "a rare class is easy" are one case here, so there is one set for it.
rare-noisy  Classes differ only in their shape. In the training images, a third of the labels of the
            rare class are wrong. Half of these have changed places with labels of other classes;
            the other half lie where there is nothing. Weight on the rare class is weight on these
            errors.

`make` writes COCO folders with PNG pictures; equal seeds and library versions give equal bytes.
`plan` prints the commands of the studies; they train from random weights, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from scalewise.errors import UserError
from scalewise.lab.data import demo_draw

Pixels = npt.NDArray[np.float32]
Rectangle = tuple[int, int, int, int]

SIZE = 144  # side of the square pictures
SPLITS = {"train": 300, "val": 100}
WRONG = 1 / 3  # share of wrong labels of the rare class in `rare-noisy`
TRIES = 30
MOST_IOU = 0.02


@dataclass(frozen=True)
class Look:
    """What the objects of a class look like.

    Attributes:
        name: name of the class; None for shapes without a label.
        shape: a shape of the demo data.
        chance: how often it is drawn, relative to the others.
        sides: smallest and largest extent in pixels.
        hue: 0 to 1.
        strength: opacity of the colour, 0 to 1.
    """

    name: str | None
    shape: str
    chance: float
    sides: tuple[float, float]
    hue: float
    strength: float


@dataclass(frozen=True)
class Thing:
    """An object of a picture: its class and the tight hull (x1, y1, x2, y2) of its pixels."""

    label: int
    box: Rectangle


SETS: dict[str, tuple[Look, ...]] = {
    "rare-easy": (
        Look("square", "square", 10, (14, 26), 0.3, 0.6),
        Look("disc", "disc", 10, (14, 26), 0.3, 0.6),
        Look("triangle", "triangle", 10, (14, 26), 0.3, 0.6),
        Look("ring", "ring", 1.5, (36, 64), 0.95, 1.0),
        Look(None, "cross", 8, (14, 26), 0.3, 0.6),
    ),
    "rare-noisy": (
        Look("square", "square", 10, (16, 40), 0.3, 0.8),
        Look("disc", "disc", 10, (16, 40), 0.3, 0.8),
        Look("cross", "cross", 10, (16, 40), 0.3, 0.8),
        Look("ring", "ring", 2, (16, 40), 0.3, 0.8),
    ),
}
RARE = "ring"
NOISY = "rare-noisy"


def class_names(looks: tuple[Look, ...]) -> list[str]:
    """Names of the classes; a label is an index into them."""
    return [look.name for look in looks if look.name is not None]


def draw_picture(
    rng: np.random.Generator, looks: tuple[Look, ...]
) -> tuple[npt.NDArray[np.uint8], list[Thing]]:
    """Draw one picture.

    Args:
        rng: source of randomness; the picture is a function of its state.
        looks: looks of the classes in order, then of shapes without a label.

    Returns:
        The picture, uint8 [SIZE, SIZE, 3], and its labelled objects.
    """
    canvas = demo_draw.draw_background(rng, SIZE)
    chances = np.array([look.chance for look in looks])
    drawn = rng.choice(len(looks), size=int(rng.integers(3, 9)), p=chances / chances.sum())
    taken: list[Rectangle] = []
    things: list[Thing] = []
    for label in sorted(drawn.tolist(), key=lambda i: -looks[i].sides[1]):  # largest looks first
        look = looks[label]
        alpha = demo_draw.draw_shape(look.shape, float(rng.uniform(*look.sides)), rng)
        box = free_place(rng, alpha.shape[1], alpha.shape[0], taken)
        if overlap(box, taken) <= MOST_IOU:
            x1, y1, x2, y2 = box
            paint(canvas[y1:y2, x1:x2], alpha, look, rng)
            taken.append(box)
            if look.name is not None:
                things.append(Thing(label, box))
    canvas += rng.normal(0, 6, canvas.shape).astype(np.float32)
    return canvas.clip(0, 255).astype(np.uint8), things


def free_place(
    rng: np.random.Generator, width: int, height: int, taken: list[Rectangle]
) -> Rectangle:
    """Draw several places for a box, and return the one that overlaps other boxes least."""
    best: Rectangle | None = None
    for _ in range(TRIES):
        x, y = (int(rng.integers(SIZE - side + 1)) for side in (width, height))
        box = (x, y, x + width, y + height)
        if best is None or overlap(box, taken) < overlap(best, taken):
            best = box
        if overlap(best, taken) == 0:
            break
    assert best is not None
    return best


def overlap(box: Rectangle, others: list[Rectangle]) -> float:
    """The largest IoU of a box with others; 0 without any."""
    return max((demo_draw.overlap(box, other) for other in others), default=0.0)


def paint(patch: Pixels, alpha: Pixels, look: Look, rng: np.random.Generator) -> None:
    """Blend a shape over `patch`: bright over a dark background, else dark.

    Args:
        patch: float32 [h, w, 3], changed in place.
        alpha: float32 [h, w], how much the shape covers each pixel.
        look: gives hue and strength.
        rng: source of randomness.
    """
    value = rng.uniform(0.85, 1.0) if patch.mean() < 128 else rng.uniform(0.1, 0.25)
    colour = 255 * value * demo_draw.rgb(look.hue, rng.uniform(0.5, 0.8))
    patch += look.strength * alpha[..., None] * (colour - patch)


def spoil(rng: np.random.Generator, pictures: list[list[Thing]], rare: int) -> list[list[Thing]]:
    """Make a third of the labels of the rare class wrong; classes keep their number of labels.

    Args:
        rng: source of randomness.
        pictures: the objects of each picture.
        rare: label of the rare class.

    Returns:
        The objects in the same order. Half of the wrong labels are exchanged with labels of other
        classes; the boxes of the other half are moved to where nothing is.
    """
    spoilt = [list(things) for things in pictures]
    places = [(i, j) for i, things in enumerate(spoilt) for j in range(len(things))]
    own = [(i, j) for i, j in places if spoilt[i][j].label == rare]
    others = [(i, j) for i, j in places if spoilt[i][j].label != rare]
    chosen = rng.permutation(len(own))[: round(WRONG * len(own))].tolist()
    exchanged, moved = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    partners = rng.permutation(len(others))[: len(exchanged)].tolist()
    for (i, j), (k, m) in zip(
        [own[n] for n in exchanged], [others[n] for n in partners], strict=True
    ):
        one, other = spoilt[i][j], spoilt[k][m]
        spoilt[i][j] = replace(one, label=other.label)
        spoilt[k][m] = replace(other, label=one.label)
    for i, j in (own[n] for n in moved):
        x1, y1, x2, y2 = spoilt[i][j].box
        there = [thing.box for thing in pictures[i]]
        spoilt[i][j] = Thing(rare, free_place(rng, x2 - x1, y2 - y1, there))
    return spoilt


def make_set(folder: Path, name: str, seed: int) -> None:
    """Write one set as a COCO folder.

    Args:
        folder: folder of the set, which must not exist.
        name: one of `SETS`.
        seed: determines the whole set.

    Raises:
        UserError: if the folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; move it away, or name another folder")
    (folder / "annotations").mkdir(parents=True)
    looks = SETS[name]
    names = class_names(looks)
    for part, (split, count) in enumerate(SPLITS.items()):
        (folder / split).mkdir()
        pictures: list[list[Thing]] = []
        for index in range(count):
            pixels, things = draw_picture(np.random.default_rng([seed, part, index]), looks)
            Image.fromarray(pixels).save(folder / split / file_name(index))
            pictures.append(things)
        if name == NOISY and split == "train":
            pictures = spoil(np.random.default_rng([seed, part]), pictures, names.index(RARE))
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(coco(pictures, names)), encoding="utf-8")


def file_name(index: int) -> str:
    """File name of a picture."""
    return f"{index:04d}.png"


def coco(pictures: list[list[Thing]], names: list[str]) -> dict[str, Any]:
    """The content of a COCO annotation file."""
    annotations: list[dict[str, Any]] = []
    for index, things in enumerate(pictures):
        for thing in things:
            x1, y1, x2, y2 = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": thing.label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": i + 1, "file_name": file_name(i), "width": SIZE, "height": SIZE}
            for i in range(len(pictures))
        ],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }


def compare_words(data: Path, name: str, seeds: int) -> list[str]:
    """The command that compares the rules on one set."""
    options = {
        "--data": str(data / name),
        "--schemes": "equal,share,avw,rlo",
        "--by": "class",
        "--seeds": str(seeds),
        "--size": "128",
        "--epochs": "12",
        "--val_every": "12",
        "--batch_size": "8",
        "--backbone": "shufflenet_v2_x1_0",
        "--width": "64",
        "--depth": "1",
        "--anchor_scale": "0.4",
        "--lr": "2e-3",
        "--backbone_lr": "1",
        "--warmup": "30",
        "--cache": "ram",
        "--workers": "0",
        "--out": f"study/{name}",
    }
    return ["scalewise", "compare", *(word for pair in options.items() for word in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="draw the sets")
    making.add_argument("folder", type=Path, help="parent of the folders of the sets")
    making.add_argument("--seed", type=int, default=0)
    planning = commands.add_parser("plan", help="print the studies' commands")
    planning.add_argument("folder", type=Path, help="parent of the folders of the sets")
    planning.add_argument("--seeds", type=int, default=5, help="number of seeds")
    options = parser.parse_args()
    for name in SETS:
        if options.command == "make":
            make_set(options.folder / name, name, options.seed)
            print(options.folder / name)
        else:
            print(shlex.join(compare_words(options.folder, name, options.seeds)))


if __name__ == "__main__":
    main()
