"""Tiny detectors of every supported family, and batches for them."""

from __future__ import annotations

import math
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
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

from scalewise.integrations.attach import attach
from scalewise.integrations.options import KINDS
from scalewise.weighting import LossBalancer, scale_gradients

CHANNELS, SIDE, CLASSES, WIDTH = 32, 64, 4, 32
EDGES = (15.0, 20.0)  # between small, medium and large objects of `batch`
FAMILIES = ("retinanet", "retinanet_giou", "fcos", "ssd", "ssdlite", "faster_rcnn", "mask_rcnn")


class Pyramid(nn.Module):
    """Levels of strides 8, 16, 32, 32, ..."""

    def __init__(self, levels: int, dense: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=8, padding=1)
        self.steps = nn.ModuleList(
            # further levels keep their size, since normalisation needs more than one pixel
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
        fixed["box_head"] = TwoMLPHead(CHANNELS * 49, WIDTH)
        fixed["box_predictor"] = FastRCNNPredictor(WIDTH, CLASSES)
        if family == "mask_rcnn":
            fixed["mask_roi_pool"] = MultiScaleRoIAlign(names, 14, 2)
            fixed["mask_head"] = MaskRCNNHeads(CHANNELS, (WIDTH,), 1)
            fixed["mask_predictor"] = MaskRCNNPredictor(WIDTH, WIDTH, CLASSES)
            model = MaskRCNN(body, **fixed)
        else:
            model = FasterRCNN(body, **fixed)
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
    """Losses and gradients of one training step; random samplers draw the same every time."""
    torch.manual_seed(7)
    model.zero_grad()
    losses = model(*data)
    torch.autograd.backward(torch.stack([v.float() for v in losses.values()]).sum())
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {key: value.detach() for key, value in losses.items()}, gradients


class Seen:
    """Inputs and intermediate results of a plain model, recorded by hooks.

    Attributes:
        given: the targets before images are resized.
        levels: number of anchors of each level.
        anchors: anchors of each image, [A, 4].
        factors: weights of the regions of all images, float32 [R].
        positive: which of these regions have an object, bool [R].
        groups: the group of each positive that was weighed.
    """

    given: list[dict[str, Tensor]]
    levels: list[int]
    anchors: list[Tensor]
    factors: Tensor
    positive: Tensor

    def __init__(self, model: Any, by: str) -> None:
        self.by = by
        self.groups: list[int] = []
        self.first = int(not isinstance(model, RetinaNet | FCOS))
        dense = hasattr(model, "anchor_generator")
        generator = model.anchor_generator if dense else model.rpn.anchor_generator
        model.transform.register_forward_pre_hook(
            lambda _, inputs: setattr(self, "given", inputs[1])
        )
        generator.register_forward_hook(self.note_anchors)

    def note_anchors(self, generator: Any, inputs: Any, found: list[Tensor]) -> None:
        self.anchors = found
        per_place = generator.num_anchors_per_location()
        self.levels = [
            n * f.shape[-2] * f.shape[-1] for n, f in zip(per_place, inputs[1], strict=True)
        ]

    def group(self, image: int, number: int, level: int) -> int:
        """The group of an object, computed in the plainest way."""
        label = int(self.given[image]["labels"][number]) - self.first
        x1, y1, x2, y2 = self.given[image]["boxes"][number].tolist()
        size = sum(math.sqrt((x2 - x1) * (y2 - y1)) >= edge for edge in EDGES)
        classes = CLASSES - self.first
        both = size * classes + label
        found = {"class": label, "size": size, "size*class": both}.get(self.by, level)
        self.groups.append(found)
        return found

    def level(self, anchor: int) -> int:
        return next(i for i in range(9) if anchor < sum(self.levels[: i + 1]))


def weigh_predictions(model: Any, weights: Mapping[str, Tensor], by: str) -> Seen | None:
    """Weigh the gradients of the predictions, and leave torchvision's loss as it is."""
    if by == "level":
        _weigh_levels(model, weights)
        return None
    seen = Seen(model, by)
    if "dense" in weights:
        owner = model if isinstance(model, SSD) else model.head
        own = owner.compute_loss

        def dense(targets: Any, outputs: Any, anchors: Any, matched: Any) -> Any:
            factors = torch.ones(len(matched), len(matched[0]))
            for image, match in enumerate(matched):
                for anchor in (match >= 0).nonzero().flatten().tolist():
                    group = seen.group(image, int(match[anchor]), seen.level(anchor))
                    factors[image, anchor] = weights["dense"][group]
            scaled = {name: _times(values, factors[..., None]) for name, values in outputs.items()}
            return own(targets, scaled, anchors, matched)

        owner.compute_loss = dense
        return seen
    if "rpn" in weights:
        _weigh_proposals(model.rpn, weights["rpn"], seen)
    _weigh_regions(model.roi_heads, weights["roi"], seen)
    return seen


def _weigh_proposals(rpn: Any, weights: Tensor, seen: Seen) -> None:
    own = rpn.compute_loss
    targets: list[Any] = []
    rpn.register_forward_pre_hook(lambda _, inputs: targets.append(inputs[2]))

    def proposals(objectness: Tensor, deltas: Tensor, labels: Any, wanted: Any) -> Any:
        factors = [torch.ones(len(label)) for label in labels]
        for image, label in enumerate(labels):
            for anchor in (label > 0).nonzero().flatten().tolist():
                box = seen.anchors[image][anchor : anchor + 1]
                number = int(box_iou(targets[-1][image]["boxes"], box).argmax())
                group = seen.group(image, number, seen.level(anchor))
                factors[image][anchor] = weights[group]
        flat = torch.cat(factors)[:, None]
        return own(_times(objectness, flat), _times(deltas, flat), labels, wanted)

    rpn.compute_loss = proposals


def _weigh_regions(heads: Any, weights: Tensor, seen: Seen) -> None:
    own = heads.select_training_samples
    sample: list[Any] = []

    def select(proposals: Any, targets: Any) -> Any:
        sample[:] = own(proposals, targets)
        return tuple(sample)

    def boxes(predictor: Any, inputs: Any, output: Any) -> Any:
        regions, matched, labels, _ = sample
        levels = heads.box_roi_pool.map_levels(regions).split([len(r) for r in regions])
        factors = [torch.ones(len(label)) for label in labels]
        for image, label in enumerate(labels):
            for region in (label > 0).nonzero().flatten().tolist():
                level = int(levels[image][region])
                group = seen.group(image, int(matched[image][region]), level)
                factors[image][region] = weights[group]
        seen.factors, seen.positive = torch.cat(factors), torch.cat(labels) > 0
        return tuple(_times(part, seen.factors[:, None]) for part in output)

    def masks(predictor: Any, inputs: Any, output: Tensor) -> Tensor:
        return _times(output, seen.factors[seen.positive][:, None, None, None])

    heads.select_training_samples = select
    heads.box_predictor.register_forward_hook(boxes)
    if heads.has_mask():
        heads.mask_predictor.register_forward_hook(masks)


def _times(values: Tensor, factors: Tensor) -> Tensor:
    """The same values with gradients multiplied by `factors`."""
    kept: Tensor = values.detach()
    return kept + (values - kept) * factors


def _weigh_levels(model: Any, weights: Mapping[str, Tensor]) -> None:
    if "dense" in weights:
        model.head.register_forward_hook(_Flat(model, weights["dense"]))
        return

    def rpn(module: nn.Module, inputs: Any, output: Any) -> Any:
        return tuple(scale_gradients(part, weights["rpn"]) for part in output)

    def rows(pool: Any, regions: Any) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            levels = pool.map_levels(regions[-1])
            parts = output if isinstance(output, tuple) else (output,)
            by_row = weights["roi"][levels]
            weighed = tuple(_times(p, by_row.view(-1, *[1] * (p.ndim - 1))) for p in parts)
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


def _balancers(model: Any, scheme: Any, **options: Any) -> dict[str, LossBalancer]:
    attached = attach(model, scheme=scheme, size_edges=EDGES, **options)
    return {name: attached[name] for name in attached.weights}


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
        by=KINDS,
    )
    for family in FAMILIES
}
