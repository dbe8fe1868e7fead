"""Images decoded small: boxes compared with pixels, and each decoder with a whole decode."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset_writers import write_coco
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from scalewise.data import (
    BadData,
    DetectionDataset,
    DeviceCache,
    Item,
    Request,
    Split,
    load_image,
    make_loader,
    open_split,
    train_transforms,
)
from scalewise.lab.data.image_header import read_header
from scalewise.lab.data.image_shrink import shrink_of
from scalewise.lab.data.images import load_shrunk
from scalewise.lab.data.transforms import as_boxes

SIZE = 16  # of the network's images: from 80, 160 and 320 pixels on, the factor is 2, 4 and 8
SIDES = {2: (157, 111), 4: (317, 203), 8: (405, 651)}  # width, height: no multiples of the factor
BOX = (0.31, 0.42, 0.73, 0.87)  # shares of width and height

Save = Callable[[Image.Image, Path], None]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def _saved(image: Image.Image, path: Path, mode: str = "RGB", **options: Any) -> None:
    image.convert(mode).save(path, **options)


def _turned(image: Image.Image, path: Path, orientation: int, turn: Image.Transpose) -> None:
    image.transpose(turn).save(path, exif=_exif(orientation), quality=95)


def _pair(image: Image.Image, path: Path) -> None:
    image.save(path, "MPO", save_all=True, append_images=[image.rotate(180)], quality=95)


def _deep(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


SAVES: dict[str, Save] = {
    "plain.jpg": partial(_saved, quality=95),
    "full-colour.jpg": partial(_saved, quality=95, subsampling=0),
    "grey.jpg": partial(_saved, mode="L", quality=95),
    "ink.jpg": partial(_saved, mode="CMYK", quality=95),
    "progressive.jpg": partial(_saved, quality=95, progressive=True),
    "on-its-side.jpg": partial(_turned, orientation=6, turn=Image.Transpose.ROTATE_90),
    "upside-down.jpg": partial(_turned, orientation=3, turn=Image.Transpose.ROTATE_180),
    "transposed.png": partial(_turned, orientation=5, turn=Image.Transpose.TRANSPOSE),
    "pair.mpo": _pair,
    "plain.png": _saved,
    "deep.png": _deep,
    "palette.png": partial(_saved, mode="P"),
    "plain.webp": partial(_saved, lossless=True),
    "plain.tif": _saved,
}


def _marked(width: int, height: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return a black image with a white box, and the box."""
    x1, y1, x2, y2 = (round(share * (width, height)[i % 2]) for i, share in enumerate(BOX))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    return Image.fromarray(pixels), (x1, y1, x2, y2)


def _edges(pixels: np.ndarray[Any, Any]) -> list[float]:
    """Return the edges of a white box in [h, w, 3], to parts of a pixel by brightness."""
    light = pixels[..., 1].astype(float) / 255
    edges = []
    for along in (0, 1):
        line = light[light.shape[0] * 2 // 3] if along == 0 else light[:, light.shape[1] // 2]
        middle = round(float((line * np.arange(len(line))).sum() / line.sum()))
        edges += [middle - line[:middle].sum(), middle + line[middle:].sum()]
    return [edges[0], edges[2], edges[1], edges[3]]


def _split(root: Path, name: str, shrink: int) -> Split:
    """Return a split of one image with a box."""
    width, height = SIDES[shrink]
    image, (x1, y1, x2, y2) = _marked(width, height)
    write_coco(root, {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        ],
        "categories": [{"id": 1, "name": "mark"}],
    })  # fmt: skip
    SAVES[name](image, root / "train2017" / name)
    return open_split(root, strict=True)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 1500))
def test_the_rule(width: int, height: int, size: int) -> None:
    """The factor is the largest of 1, 2, 4 and 8 with which a zoom of 2.5 enlarges no pixel."""
    shrink, longer = shrink_of(width, height, size), max(width, height)
    assert shrink in (1, 2, 4, 8)
    assert shrink == shrink_of(height, width, size)
    assert shrink == 1 or longer / shrink >= 2.5 * size
    assert shrink == 8 or longer / (2 * shrink) < 2.5 * size


@given(st.integers(40, 700), st.integers(40, 700), st.integers(0, 2**32))
def test_sizes_and_boxes_are_those_of_the_whole_image(width: int, height: int, seed: int) -> None:
    """Augmentation gives the same sizes and boxes for the shrunk and the whole image."""
    shrink = shrink_of(width, height, SIZE)
    transforms = train_transforms(SIZE, 0.5, 0.0, (0.75, 1.25))
    boxes = torch.tensor([[0.0, 0.0, width, height], [0.3 * width, 0.2 * height, width, height]])
    found = []
    for part in (1, shrink):
        torch.manual_seed(seed)
        image = torch.zeros(3, math.ceil(height / part), math.ceil(width / part)).byte()
        target = {"boxes": as_boxes(boxes, height, width), "labels": torch.tensor([0, 1])}
        found.append(transforms(image, target))
    (whole, its), (smaller, own) = found
    assert smaller.shape == whole.shape
    assert torch.equal(own["boxes"], its["boxes"])
    assert torch.equal(own["labels"], its["labels"])


@pytest.mark.parametrize("shrink", SIDES)
@pytest.mark.parametrize("name", SAVES)
def test_boxes_frame_what_they_framed(tmp_path: Path, name: str, shrink: int) -> None:
    """Boxes fit the object in the decoded image, and in training and evaluation."""
    split = _split(tmp_path, name, shrink)
    record = split.records[0]
    image = load_shrunk(record.path, SIZE)
    shape = (math.ceil(record.height / shrink), math.ceil(record.width / shrink), 3)
    assert image.pixels.shape == shape
    assert (image.width, image.height) == read_header(record.path)[:2]
    factor = [shape[1] / record.width, shape[0] / record.height] * 2
    assert np.abs(_edges(image.pixels) - record.boxes[0] * factor).max() < 1
    assert np.abs(_edges(load_image(record.path)) - record.boxes[0]).max() < 1, "whole"
    plain = DetectionDataset(split, SIZE, augment=False)
    drawn = DetectionDataset(split, SIZE, True, "ram", 0.5, 0.0, (0.9, 1.0))
    items: list[Item] = [plain[0], *(drawn[Request(0, seed)] for seed in range(4))]
    for item in items:
        found = _edges(item.image.permute(1, 2, 0).numpy())
        assert np.abs(np.array(found) - item.boxes[0].numpy()).max() < 0.8
        ratio = np.array(item.image.shape[:0:-1]) / (record.width, record.height)
        np.testing.assert_allclose(item.scale, ratio)
    np.testing.assert_allclose(
        items[0].boxes[0], record.boxes[0] * np.tile(items[0].scale, 2), rtol=1e-6
    )


@pytest.mark.parametrize("shrink", SIDES)
@pytest.mark.parametrize("name", SAVES)
def test_pixels_are_means_of_the_whole_image(tmp_path: Path, name: str, shrink: int) -> None:
    """Pixels are block means as NumPy computes them, for JPEG nearly so."""
    width, height = (side - side % shrink for side in SIDES[shrink])
    few = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    path = tmp_path / name
    SAVES[name](Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC), path)
    blocks = load_image(path).reshape(height // shrink, shrink, width // shrink, shrink, 3)
    apart = np.abs(load_shrunk(path, SIZE).pixels - blocks.mean((1, 3)))
    assert apart.mean() < 1
    assert apart.max() < (1 if path.suffix in (".png", ".webp", ".tif") else 12)


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png"])
@pytest.mark.parametrize("sides", [(400, 1), (3, 333), (321, 7), (9, 400)])
def test_narrow_images(tmp_path: Path, name: str, sides: tuple[int, int]) -> None:
    """A side may be smaller than the factor."""
    SAVES[name](Image.new("RGB", sides, (200, 100, 50)), tmp_path / name)
    width, height = sides
    pixels = load_shrunk(tmp_path / name, SIZE).pixels
    assert pixels.shape == (math.ceil(height / 8), math.ceil(width / 8), 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Return a split of large pictures with sides that are not multiples of the factor."""
    folder = tmp_path_factory.mktemp("demo")
    return open_split(f"demo:images=10,size=251,folder={folder}/demo")


def _alike(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_cache_changes_nothing_and_is_small(photos: Split) -> None:
    load = partial(make_loader, batch_size=4, shuffle=True, seed=3, mosaic_epochs=2)
    plain, kept = (DetectionDataset(photos, 24, True, cache) for cache in ("none", "ram"))
    assert shrink_of(251, 251, 24) == 4
    assert kept.load(3).shape == plain.load(3).shape == (3, 63, 63)
    assert kept._cache is not None
    assert len(kept._cache._pixels) == 10 * 3 * 63 * 63
    for workers in (0, 2):
        for ours, theirs in zip(load(kept, workers=workers), load(plain), strict=True):
            assert _alike(ours, theirs)


def test_batches_of_the_device_are_those_of_the_files(photos: Split) -> None:
    """Batches are equal but for pixels, which are resized once more."""
    dataset = DetectionDataset(photos, 24, augment=True, color_jitter=0.0)
    cache = DeviceCache(dataset, torch.device("cpu"))
    assert cache.shape == (10, 3, 30, 30)
    loaders = [
        make_loader(data, 5, shuffle=True, seed=3, mosaic_epochs=2) for data in (cache, dataset)
    ]
    for found, expected in zip(*loaders, strict=True):
        apart = (found.images.int() - expected.images.int()).abs().float()
        assert apart.mean() < 3
        for one, other in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_a_damaged_image_is_grey_alike(photos: Split, tmp_path: Path) -> None:
    split = open_split(f"demo:images=10,size=251,seed=1,folder={tmp_path}/demo", skip_bad=True)
    for record in split.records[:2]:
        data = bytearray(record.path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 1000] = bytes(1000)
        record.path.write_bytes(data)
    for cache in ("none", "ram"):
        dataset = DetectionDataset(split, 24, False, cache)
        with pytest.warns(UserWarning, match="a grey picture without objects takes its place"):
            items = [dataset[i] for i in range(3)]
        assert [item.image.shape for item in items] == [(3, 24, 24)] * 3
        assert [len(item.boxes) > 0 for item in items] == [False, False, True]


def test_an_image_that_has_changed_by_a_pixel_is_told(tmp_path: Path) -> None:
    """An image with a new size is an error, even if only by a pixel."""
    split = _split(tmp_path, "plain.jpg", 8)
    width, height = SIDES[8]
    _marked(width + 1, height)[0].save(split.records[0].path)
    with pytest.raises(BadData, match=f"is now {width + 1}x{height} pixels; it was {width}x"):
        DetectionDataset(split, SIZE, augment=False)[0]
