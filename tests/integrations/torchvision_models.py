"""Tiny detectors of every supported family, and batches for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

CHANNELS, SIDE, CLASSES = 32, 64, 4
FAMILIES = ("retinanet", "retinanet_giou", "fcos", "ssd", "faster_rcnn", "mask_rcnn")


class Pyramid(nn.Module):
    """Levels of strides 8, 16, ..."""

    def __init__(self, levels: int, dense: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=8, padding=1)
        self.steps = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1) for _ in range(levels - 1)
        )
        self.out_channels: Any = [CHANNELS] * levels if dense else CHANNELS

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = [self.stem(x).tanh()]
        for step in self.steps:
            maps.append(step(maps[-1]).tanh())
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def make(family: str, levels: int = 3, seed: int = 0) -> Any:
    """A model in training mode."""
    torch.manual_seed(seed)
    body = Pyramid(levels, family == "ssd")
    sizes = tuple((8 * 2**i,) for i in range(levels))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels)
    fixed: dict[str, Any] = {"min_size": SIDE, "max_size": SIDE}
    model: Any
    if family.startswith("retinanet"):
        model = RetinaNet(body, CLASSES, anchor_generator=anchors, **fixed)
        if family == "retinanet_giou":
            model.head.regression_head._loss_type = "giou"
    elif family == "fcos":
        square = AnchorGenerator(sizes, ((1.0,),) * levels)
        model = FCOS(body, CLASSES, anchor_generator=square, **fixed)
    elif family == "ssd":
        boxes = DefaultBoxGenerator([[2]] * levels)
        model = SSD(body, boxes, (SIDE, SIDE), CLASSES)
    else:
        names = [str(i) for i in range(levels)]
        fixed |= {"rpn_anchor_generator": anchors, "rpn_pre_nms_top_n_train": 60}
        fixed["box_roi_pool"] = MultiScaleRoIAlign(names, 7, 2)
        fixed |= {"box_batch_size_per_image": 32, "box_detections_per_img": 5}
        if family == "mask_rcnn":
            fixed["mask_roi_pool"] = MultiScaleRoIAlign(names, 14, 2)
            model = MaskRCNN(body, CLASSES, **fixed)
        else:
            model = FasterRCNN(body, CLASSES, **fixed)
    return model.train()


def batch(counts: tuple[int, ...], seed: int = 1) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images with that many objects each, of all sizes."""
    draw = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for count in counts:
        images.append(torch.rand(3, SIDE, SIDE, generator=draw))
        corner = torch.rand(count, 2, generator=draw) * 30
        side = 5 + torch.rand(count, 2, generator=draw) * 28
        masks = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
        for mask, (x, y), (w, h) in zip(
            masks, corner.int().tolist(), side.int().tolist(), strict=True
        ):
            mask[y : y + h, x : x + w] = 1
        targets.append(
            {
                "boxes": torch.cat([corner, corner + side], dim=1),
                "labels": torch.randint(1, CLASSES, (count,), generator=draw),
                "masks": masks,
            }
        )
    return images, targets


def step(
    model: nn.Module, data: tuple[list[Tensor], list[dict[str, Tensor]]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of one training step; samplers draw the same every time."""
    torch.manual_seed(7)
    model.zero_grad()
    losses = model(*data)
    torch.autograd.backward(torch.stack([v.float() for v in losses.values()]).sum())
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {key: value.detach() for key, value in losses.items()}, gradients
