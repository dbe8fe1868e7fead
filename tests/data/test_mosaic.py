"""Mosaics of images whose pixels encode the image and the object that they come from."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalewise.data import Item
from scalewise.lab.data.mosaic import mosaic

GREY = torch.tensor([124, 116, 104])


def _painted(number: int, height: int, width: int, boxes: list[list[int]]) -> Item:
    """Return an item with the image's number in red and the object's in green (0 for none)."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0] = number
    for row, (x1, y1, x2, y2) in enumerate(boxes, 1):
        image[1, y1:y2, x1:x2] = row
    return Item(
        image=image,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([10 * number + row for row in range(1, len(boxes) + 1)]).long(),
        scale=(0.5, 0.25 * (1 + number)),
        image_id=100 + number,
    )


@st.composite
def _batches(draw: st.DrawFn) -> list[Item]:
    """Draw 4 to 6 images with sides of 1 to 60 pixels, with up to one object per quarter."""
    items = []
    for number in range(draw(st.integers(4, 6))):
        height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
        boxes = []
        for part in draw(st.sets(st.integers(0, 3))):
            below, right = divmod(part, 2)
            top, bottom = (height // 2, height) if below else (0, height // 2)
            left, far = (width // 2, width) if right else (0, width // 2)
            if bottom > top and far > left:
                y1, x1 = draw(st.integers(top, bottom - 1)), draw(st.integers(left, far - 1))
                y2, x2 = draw(st.integers(y1 + 1, bottom)), draw(st.integers(x1 + 1, far))
                boxes.append([x1, y1, x2, y2])
        items.append(_painted(number, height, width, boxes))
    return items


def _hull(mask: Tensor) -> list[float]:
    """Return the edges (x1, y1, x2, y2) of the True pixels of a bool [h, w]."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float().tolist()


@settings(max_examples=150)
@given(_batches(), st.integers(0, 2**40))
def test_each_box_bounds_the_pixels_of_its_object(batch: list[Item], seed: int) -> None:
    """Each object with a tenth or more in view has a tight box, others have none."""
    originals = [item.image.clone() for item in batch]
    result = mosaic(batch, range(seed, seed + len(batch)))
    for number, (item, own) in enumerate(zip(result, batch, strict=True)):
        if item is own:
            continue
        red, green, _ = item.image
        outside = (item.image == GREY[:, None, None]).all(0)
        assert (outside | (red < len(batch))).all()
        assert item.image_id == own.image_id
        boxes = dict(zip(item.labels.tolist(), item.boxes.tolist(), strict=True))
        assert len(boxes) == len(item.labels), "no object occurs twice"
        expected = {}
        for source, other in enumerate(batch):
            for row, label in enumerate(other.labels.tolist(), 1):
                pixels = (red == source) & (green == row)
                sides = other.boxes[row - 1, 2:] - other.boxes[row - 1, :2]
                if pixels.any() and 10 * int(pixels.sum()) >= int(sides.prod()):
                    expected[label] = _hull(pixels)
        assert boxes == expected
        assert item.boxes.dtype == torch.float32
        assert type(item.boxes) is Tensor
        seen = set(red[~outside].tolist())
        assert len(seen) <= 4
        if all(min(image.shape[1:]) > 1 for image in originals):
            assert len(seen) == 4
            assert number in seen
            assert item.image.shape[1] == max(originals[i].shape[1] for i in seen)
            assert item.image.shape[2] == max(originals[i].shape[2] for i in seen)
            ys = [batch[i].scale[1] for i in seen]
            assert item.scale == (0.5, sum(ys) / 4)
    for item, image in zip(batch, originals, strict=True):
        assert torch.equal(item.image, image), "the input does not change: a cache may hold it"


def test_pieces_are_unturned_and_show_all_pixels_alike() -> None:
    """Each pixel of each image is seen in a quarter of the collages."""
    numbers = torch.arange(16 * 12).reshape(16, 12)
    images = [torch.stack([torch.full_like(numbers, i), numbers, numbers]) for i in range(4)]
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    batch = [Item(image.to(torch.uint8), *none, (1.0, 1.0), 0) for image in images]
    seen, collages = torch.zeros(4, 16 * 12), 0
    for seed in range(1000):
        collage = mosaic(batch, [seed, None, None, None])[0]
        if collage is batch[0]:
            continue
        collages += 1
        assert collage.boxes.shape == (0, 4)
        assert collage.labels.shape == (0,)
        for i in range(4):
            pixels = collage.image[1][collage.image[0] == i].long()
            x1, y1, x2, y2 = (int(edge) for edge in _hull(collage.image[0] == i))
            rows, columns = y2 - y1, x2 - x1
            assert len(pixels) == rows * columns, "each piece is a rectangle"
            top, left = divmod(int(pixels[0]), 12)
            expected = numbers[top : top + rows, left : left + columns]
            assert torch.equal(pixels.view(rows, columns), expected)
            assert 4 <= rows <= 12
            assert 3 <= columns <= 9
            seen[i, pixels] += 1
    assert 430 < collages < 570, "about half, within four standard deviations"
    assert (seen / collages - 0.25).abs().max() < 0.08


def test_what_is_left_of_a_box_is_at_least_a_pixel() -> None:
    edges = torch.arange(48) * 0.4
    boxes = torch.stack([edges, torch.zeros(48), edges + 1.2, torch.full((48,), 20.0)], 1)
    image, labels = torch.zeros(3, 20, 21, dtype=torch.uint8), torch.arange(48)
    batch = [Item(image, boxes, labels, (1.0, 1.0), i) for i in range(4)]
    found = [item.boxes for item in mosaic(batch, range(4)) if item.image is not image]
    assert found
    for kept in found:
        assert len(kept) > 24
        assert (kept[:, 2:] - kept[:, :2]).min() >= 1


def test_seeds_decide_and_none_leaves_an_image_as_it_is() -> None:
    batch = [_painted(i, 40, 50, [[5, 6, 30, 31]]) for i in range(6)]

    def images(first: int) -> list[Tensor]:
        return [item.image for item in mosaic(batch, range(first, first + 6))]

    assert all(torch.equal(a, b) for a, b in zip(images(7), images(7), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(images(7), images(13), strict=True))
    plain = mosaic(batch, [None] * 6)
    assert all(a is b for a, b in zip(plain, batch, strict=True))
    for seed in range(20):
        few = mosaic(batch[:3], [seed] * 3)
        assert all(a is b for a, b in zip(few, batch, strict=False))
