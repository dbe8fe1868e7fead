"""Large JPEGs decoded at full and at reduced size: processor time, and differences of pixels.

Large photos are made in two ways. Enlarged photos have fewer details than photos of a camera;
photos put side by side have more.

python benchmarks/large_images.py --photos data/voc12a-320/JPEGImages --out results/large_images.md
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from detector_step import processor
from PIL import Image
from torchvision.transforms import v2

from scalewise.files import write_text
from scalewise.lab.data.image_shrink import shrink_of
from scalewise.lab.data.images import load_image, load_shrunk

SIDES = ((640, 480), (1920, 1080), (3000, 2000), (6000, 4000))
PHOTOS, ROUNDS = 3, 5


def enlarged(files: list[Path], number: int, sides: tuple[int, int]) -> Image.Image:
    return Image.open(files[number]).convert("RGB").resize(sides, Image.Resampling.BICUBIC)


def side_by_side(files: list[Path], number: int, sides: tuple[int, int]) -> Image.Image:
    canvas, across, down = Image.new("RGB", sides), range(0, sides[0], 240), range(0, sides[1], 240)
    for place, spot in enumerate(itertools.product(across, down), start=997 * number):
        canvas.paste(Image.open(files[place % len(files)]).convert("RGB"), spot)
    return canvas


def fitted(pixels: npt.NDArray[np.uint8], new: list[int]) -> torch.Tensor:
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    resized: torch.Tensor = v2.functional.resize(image, new, antialias=True)
    return resized


def row(name: str, paths: list[Path], sides: tuple[int, int], size: int) -> str:
    width, height = sides
    new = [round(height * size / width), size]
    spent, apart = [], []
    for _ in range(ROUNDS):
        for path in paths:
            begin = time.process_time()
            whole = fitted(load_image(path), new)
            middle = time.process_time()
            now = fitted(load_shrunk(path, size).pixels, new)
            spent.append((middle - begin, time.process_time() - middle))
            apart.append((whole.int() - now.int()).abs().numpy().ravel())
    before, after = (1000 * statistics.median(part) for part in zip(*spent, strict=True))
    off = np.concatenate(apart)
    cells = (f"{width}x{height}, {name}", size, f"1/{shrink_of(width, height, size)}",
             f"{before:.1f}", f"{after:.1f}", f"{before / after:.1f}",
             f"{off.mean():.2f}", f"{np.percentile(off, 99.9):.0f}")  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(given.photos.glob("*.jpg"))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for sides, make in itertools.product(SIDES, (enlarged, side_by_side)):
            paths = [Path(folder) / f"{number}.jpg" for number in range(PHOTOS)]
            for number, path in enumerate(paths):
                make(files, number, sides).save(path, quality=90)
            name = make.__name__.replace("_", " ")
            lines += [row(name, paths, sides, size) for size in (320, 640)]
    text = f"""# Large images

`python benchmarks/large_images.py --photos {given.photos} --out {given.out}`

{processor("cpu")}, one thread. {PHOTOS} JPEGs of each kind, of quality 90. Processor time
of decoding and resizing to `--size`, median of {ROUNDS} rounds in turns. Grey values, of
255, by which the resized pixels differ from those of a whole decode: mean and 99.9 percentile.

| photo | `--size` | decoded at | whole, ms | now, ms | ratio | differ by | 99.9 % |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
    write_text(given.out, text + "".join(lines))


if __name__ == "__main__":
    main()
