"""Transforms: boxes stay on their objects, sizes are right, options are checked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalewise.data import eval_transforms, train_transforms
from scalewise.lab.data.transforms import as_boxes

Rectangle = tuple[int, int, int, int]


def _painted(height: int, width: int, box: Rectangle) -> Tensor:
    """Return a black image with a white rectangle."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 255
    return image


def _hull(image: Tensor) -> Tensor:
    """Return the edges (x1, y1, x2, y2) of the pixels that are at least half white."""
    white = image.float().mean(0) > 127
    rows, columns = white.any(1).nonzero().flatten(), white.any(0).nonzero().flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@st.composite
def _scenes(draw: st.DrawFn) -> tuple[int, int, Rectangle]:
    height, width = draw(st.integers(60, 200)), draw(st.integers(60, 200))
    x1, y1 = draw(st.integers(0, width - 40)), draw(st.integers(0, height - 40))
    x2, y2 = draw(st.integers(x1 + 30, width)), draw(st.integers(y1 + 30, height))
    return height, width, (x1, y1, x2, y2)


@settings(max_examples=60, deadline=None)
@given(_scenes(), st.integers(0, 2**31))
def test_boxes_stay_on_their_objects(scene: tuple[int, int, Rectangle], seed: int) -> None:
    height, width, box = scene
    transforms = train_transforms(96, flip=0.5, color_jitter=0.2, scale_jitter=(0.6, 1.6))
    target = {"boxes": as_boxes(torch.tensor(box), height, width), "labels": torch.tensor([3])}
    torch.manual_seed(seed)
    image, target = transforms(_painted(height, width, box), target)
    assert image.dtype == torch.uint8
    assert max(image.shape[1:]) <= 96
    if len(target["boxes"]) == 1:
        assert target["labels"].tolist() == [3]
        stretched = target["boxes"][0].as_subclass(Tensor)
        assert (stretched - _hull(image)).abs().max() <= 1.0  # half a pixel at either edge


@pytest.mark.parametrize(("x", "y"), [(20, 48), (76, 48), (48, 20), (48, 76)])
def test_objects_are_dropped_when_their_centre_is_cut_off(x: int, y: int) -> None:
    """Only the centre is painted, so an object stays exactly if paint is seen."""
    dot = _painted(96, 96, (x - 2, y - 2, x + 2, y + 2))
    boxes = as_boxes(torch.tensor([x - 20, y - 20, x + 20, y + 20]), 96, 96)
    transforms = train_transforms(96, flip=0, color_jitter=0, scale_jitter=(1.5, 1.5))
    outcomes = {"kept": 0, "dropped": 0}
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = transforms(dot, {"boxes": boxes, "labels": torch.tensor([0])})
        seen = int((image > 127).any(0).sum())
        if seen == 36:  # 4 pixels a side, zoomed by 1.5
            outcomes["kept"] += 1
            assert len(target["boxes"]) == 1
        elif seen == 0:
            outcomes["dropped"] += 1
            assert len(target["boxes"]) == 0
    assert min(outcomes.values()) >= 5


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(240, 320, (72, 96)), (320, 240, (96, 72)), (30, 30, (96, 96)), (1000, 4, (96, 1))],
)
def test_the_longer_side_becomes_the_size(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    box = (0, 0, width, height)
    target = {"boxes": as_boxes(torch.tensor(box), height, width), "labels": torch.tensor([0])}
    image, target = eval_transforms(96)(_painted(height, width, box), target)
    assert tuple(image.shape[1:]) == expected
    if min(expected) > 1:
        assert target["boxes"].tolist() == [[0, 0, expected[1], expected[0]]]


def test_boxes_that_shrink_under_a_pixel_are_dropped_with_their_label() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 200, 200]])
    target = {"boxes": as_boxes(boxes, 400, 400), "labels": torch.tensor([1, 2])}
    _, target = eval_transforms(50)(torch.zeros(3, 400, 400, dtype=torch.uint8), target)
    assert target["labels"].tolist() == [2]


@pytest.mark.parametrize("transforms", [eval_transforms(64), train_transforms(64)])
def test_images_without_objects_pass(transforms: torch.nn.Module) -> None:
    target = {
        "boxes": as_boxes(torch.zeros(0, 4), 50, 80),
        "labels": torch.zeros(0, dtype=torch.int64),
    }
    _, target = transforms(torch.zeros(3, 50, 80, dtype=torch.uint8), target)
    assert target["boxes"].shape == (0, 4)


def test_flip_and_colour_can_be_turned_off() -> None:
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8)
    target = {"boxes": as_boxes(torch.tensor([1, 2, 30, 40]), 64, 64), "labels": torch.tensor([0])}
    plain, same = train_transforms(64, 0.0, 0.0, (1.0, 1.0))(image, target)
    assert torch.equal(plain, image)
    assert same["boxes"].tolist() == [[1, 2, 30, 40]]
    mirrored, moved = train_transforms(64, 1.0, 0.0, (1.0, 1.0))(image, target)
    assert torch.equal(mirrored, image.flip(2))
    assert moved["boxes"].tolist() == [[34, 2, 63, 40]]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="low <= high zoom"):
        train_transforms(64, scale_jitter=(1.5, 0.5))
    with pytest.raises(ValueError, match="size >= 1"):
        eval_transforms(0)
