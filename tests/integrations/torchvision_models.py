"""Tiny detectors of every supported family, and batches for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torchvision
from subject import Subject
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign

from scalewise.integrations.torchvision import attach
from scalewise.weighting import LossBalancer, scale_gradients

CHANNELS, SIDE, CLASSES = 32, 64, 4
FAMILIES = ("retinanet", "retinanet_giou", "fcos", "ssd", "ssdlite", "faster_rcnn", "mask_rcnn")


class Pyramid(nn.Module):
    """Levels of strides 8, 16, 32, 32, ..."""

    def __init__(self, levels: int, dense: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=8, padding=1)
        self.steps = nn.ModuleList(
            # further levels keep their size: normalisation needs more than one place
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2 if level < 3 else 1, padding=1)
            for level in range(1, levels)
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
    body = Pyramid(levels, family.startswith("ssd"))
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
    elif family.startswith("ssd"):
        boxes = DefaultBoxGenerator([[2]] * levels)
        head = None
        if family == "ssdlite":
            anchors_each = boxes.num_anchors_per_location()
            head = SSDLiteHead([CHANNELS] * levels, anchors_each, CLASSES, nn.BatchNorm2d)
        model = SSD(body, boxes, (SIDE, SIDE), CLASSES, head=head)
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


def weigh_predictions(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Leave torchvision's loss alone, and weigh the gradients of what it is made of."""
    if "dense" in weights:
        model.head.register_forward_hook(_Flat(model, weights["dense"]))
        return

    def rpn(module: nn.Module, inputs: Any, output: Any) -> Any:
        return tuple(scale_gradients(part, weights["rpn"]) for part in output)

    def rows(pool: Any, regions: Any) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            levels = pool.map_levels(regions[-1])
            parts = output if isinstance(output, tuple) else (output,)
            weighed = tuple(_by_row(part, weights["roi"][levels]) for part in parts)
            return weighed if isinstance(output, tuple) else weighed[0]

        return hook

    model.rpn.head.register_forward_hook(rpn)
    heads = model.roi_heads
    for pool, predictor in (
        (heads.box_roi_pool, heads.box_predictor),
        (heads.mask_roi_pool, heads.mask_predictor),
    ):
        if predictor is not None:
            regions: list[Any] = []
            pool.register_forward_pre_hook(lambda _, args, kept=regions: kept.append(args[1]))
            predictor.register_forward_hook(rows(pool, regions))


def _by_row(values: Tensor, weights: Tensor) -> Tensor:
    shape = (len(values),) + (1,) * (values.ndim - 1)
    kept: Tensor = values.detach()
    return kept + (values - kept) * weights.view(shape)


class _Flat:
    def __init__(self, model: Any, weights: Tensor) -> None:
        self.anchors = model.anchor_generator.num_anchors_per_location()
        self.weights = weights

    def __call__(self, head: nn.Module, inputs: Any, output: dict[str, Tensor]) -> Any:
        counts = [
            a * f.shape[-1] * f.shape[-2] for a, f in zip(self.anchors, inputs[0], strict=True)
        ]
        return {
            key: torch.cat(scale_gradients(torch.split(flat, counts, dim=1), self.weights), dim=1)
            for key, flat in output.items()
        }


def _balancers(model: Any, scheme: str, **options: Any) -> dict[str, LossBalancer]:
    attached = attach(model, scheme, **options)
    return {name: attached[name] for name in attached.balancers}


SUBJECTS = {
    family: Subject(
        framework=f"torchvision {torchvision.__version__.partition('+')[0]}",
        family=family,
        way="split",
        make=partial(make, family),
        levels=(3, 1, 7),
        batch=batch,
        attach=_balancers,
        step=step,
        weigh=weigh_predictions,
    )
    for family in FAMILIES
}
