"""Anchor scales, compared with torchvision and with the next lower pyramid levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detector_batches import FACTORIES, random_batch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from scalewise.lab.detectors import boxes as geometry
from scalewise.lab.detectors.atss import anchors as atss_anchors
from scalewise.lab.detectors.fcos import assign as fcos_assign
from scalewise.lab.detectors.grid import Grid, make_grid
from scalewise.lab.detectors.retinanet import anchors as retinanet_anchors

STRIDES = (8, 16, 32, 64, 128)
SHAPES = [(256 // s, 256 // s) for s in STRIDES]


def grid(scale: float) -> Grid:
    return make_grid(SHAPES, STRIDES, torch.device("cpu"), scale)


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_retinanet_anchors_are_those_of_torchvisions_generator_at_scaled_sizes(
    scale: float,
) -> None:
    sizes = tuple(
        tuple(int(4 * scale * s * 2 ** (octave / 3)) for octave in range(3)) for s in STRIDES
    )
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)])
    levels = [torch.zeros(1, 1, *shape) for shape in SHAPES]
    torch.testing.assert_close(
        retinanet_anchors(grid(scale)), generator(images, levels)[0], rtol=0, atol=0
    )


@pytest.mark.parametrize("scale", [0.001, 0.02, 0.1])
def test_retinanet_codes_boxes_from_anchors_of_any_scale(scale: float) -> None:
    candidates = retinanet_anchors(grid(scale))
    assert ((candidates[:, 2:] - candidates[:, :2]) >= 1).all()
    assert geometry.encode(candidates.clone(), candidates).abs().max() == 0


def test_half_the_scale_gives_each_level_the_anchors_of_the_level_below() -> None:
    def sides(scale: float) -> list[float]:
        boxes = torch.split(atss_anchors(grid(scale)), grid(scale).counts)
        return [float(level[0, 2] - level[0, 0]) for level in boxes]

    assert sides(0.5)[1:] == sides(1.0)[:-1]


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_fcos_gives_an_object_to_the_level_of_its_scaled_range(scale: float) -> None:
    """The object is centred on a location of every level, so its edges are half a side away."""
    for half in range(5, 120, 7):
        box = torch.tensor([[[128.0 - half, 128.0 - half, 128.0 + half, 128.0 + half]]])
        owner = fcos_assign(grid(scale), box, torch.ones(1, 1, dtype=torch.bool))[0]
        level = torch.arange(5).repeat_interleave(torch.tensor(grid(scale).counts))  # [A]
        found = level[(grid(scale).points == 128.0).all(1) & (owner == 0)]
        reach = [0, *(8 * scale * s for s in STRIDES[:4]), 1e9]
        expected = [n for n in range(5) if reach[n] < half < reach[n + 1]]
        assert found.tolist() == expected


@pytest.mark.parametrize("name", ["atss", "fcos", "retinanet"])
def test_a_smaller_scale_moves_positives_to_coarser_levels(name: str) -> None:
    factory: Any = FACTORIES[name]
    means = []
    for scale in (1.0, 0.4):
        detector = factory("mobilenet_v3_small", width=8, depth=0, anchor_scale=scale)
        detector.losses(random_batch(3, 4, 6, 128, 128))
        share = detector.positives / detector.positives.sum()
        means.append(float((share * torch.arange(5)).sum()))
    assert means[1] > means[0] + 0.1


def test_a_scale_that_is_not_positive_is_refused() -> None:
    factory: Any = FACTORIES["atss"]
    with pytest.raises(ValueError, match="anchor_scale must be above 0, got 0"):
        factory(anchor_scale=0)
