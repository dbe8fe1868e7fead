"""Scalewise's detectors as test subjects: a `LossBalancer` weighs their losses of groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from subject import Step, Subject
from torch import Tensor, nn

import scalewise as sw
from scalewise.detectors import Batch, DenseDetector, atss, fcos, retinanet
from scalewise.integrations.loops import keep_from_broadcast
from scalewise.weighting import LossBalancer, by_class, by_size

SIDE, CLASSES = 128, 4
GROUPINGS = {
    "class": by_class([f"class{i}" for i in range(CLASSES)]),
    "size": by_size((24.0, 64.0)),
}
FACTORIES = {"atss": atss, "fcos": fcos, "retinanet": retinanet}


class Weighted(nn.Module):
    """A detector that returns its total loss, which is weighted once it has a balancer."""

    balancer: LossBalancer | None

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = detector
        self.balancer = None

    def group(self, by: str) -> None:
        """Make the detector return its losses by these groups."""
        detector = self.detector
        detector.grouping = GROUPINGS.get(by)
        if detector.grouping is not None:
            detector.group_names = detector.grouping.names
            detector.positives = torch.zeros(len(detector.group_names))

    def losses(self, batch: Batch) -> Tensor:
        """Loss of each group, over all terms: [n] by whole level, else [n + 1] with background."""
        return torch.stack(list(self.detector.losses(batch).values())).sum(0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        losses = self.losses(batch)
        if self.balancer is None:
            return {"loss": losses.sum()}
        return {"loss": self.balancer(losses, self.detector.positives)}


class ByGroup(Weighted):
    """The reference: back-propagates the loss of each group alone."""

    reference: Tensor


def make(name: str, seed: int) -> Weighted:
    """A new detector without a balancer."""
    return copy.deepcopy(_made(name, seed))


@cache
def _made(name: str, seed: int) -> Weighted:
    """A detector with BatchNorm fixed at the statistics of noise, so that images do not interact.

    With the statistics of a new BatchNorm, coarse maps would hardly depend on the image.
    """
    torch.manual_seed(seed)
    detector = FACTORIES[name]("mobilenet_v3_small", CLASSES, width=16, depth=1)
    for module in detector.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        detector.losses(batch((1, 1, 1)))
    detector.backbone.eval()
    return Weighted(detector)


def batch(counts: tuple[int, ...], seed: int = 1) -> Batch:
    """Images with that many objects each, of all sizes.

    The seed draws only the pixels. So two ranks with different seeds have the same number of
    positives, and the normaliser, averaged over ranks, is the same as on each rank alone.
    """
    draw = torch.Generator().manual_seed(100)
    images, most = len(counts), max(counts)
    share = torch.tensor([0.9, 0.15, 0.5, 0.25])[torch.arange(most) % 4]  # of the side
    side = SIDE * share[:, None] * (0.8 + 0.2 * torch.rand(images, most, 2, generator=draw))
    corner = torch.rand(images, most, 2, generator=draw) * (SIDE - side)
    valid = torch.arange(most) < torch.tensor(counts)[:, None]
    labels = torch.randint(0, CLASSES, (images, most), generator=draw)
    noise = torch.Generator().manual_seed(seed)
    shape = (images, 3, SIDE, SIDE)
    return Batch(
        images=torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise),
        boxes=torch.cat((corner, corner + side), dim=-1) * valid[..., None],
        labels=labels * valid,
        valid=valid,
        sizes=torch.tensor([[SIDE, SIDE]] * images),
        scales=torch.ones(images, 2),
        image_ids=torch.arange(images),
    )


def attach(model: Weighted, scheme: Any, by: str, **options: Any) -> dict[str, LossBalancer]:
    """Give the model a balancer, and keep its records from being broadcast to other ranks."""
    model.group(by)
    model.balancer = sw.LossBalancer(model.detector.group_names, scheme, by=by, **options)
    keep_from_broadcast(model)
    return {"dense": model.balancer}


def step(model: nn.Module, data: Batch) -> Step:
    """Loss and gradients of one training step."""
    model.zero_grad()
    if isinstance(model, ByGroup):
        return _by_group(model, data)
    losses = model(data)
    losses["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": losses["loss"].detach()}, gradients


def weigh(model: Weighted, weights: Mapping[str, Tensor], by: str) -> None:
    """Make `step` add up the gradients of single groups, each times its weight."""
    model.group(by)
    model.__class__ = ByGroup
    assert isinstance(model, ByGroup)
    model.reference = weights["dense"]


def _by_group(model: ByGroup, data: Batch) -> Step:
    losses = model.losses(data)
    weights = torch.cat((model.reference, torch.ones(len(losses) - len(model.reference))))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients: dict[str, Tensor] = {}
    for weight, loss in zip(weights.tolist(), losses, strict=True):
        alone = torch.autograd.grad(
            loss, [p for _, p in named], retain_graph=True, allow_unused=True
        )
        for (name, _), gradient in zip(named, alone, strict=True):
            if gradient is not None:
                gradients[name] = gradients.get(name, 0) + weight * gradient
    total = (losses.detach() * weights).sum()
    return {"loss": total}, {name: gradients[name] for name, _ in named if name in gradients}


def _subject(name: str) -> Subject:
    return Subject(
        framework=f"scalewise {sw.__version__}",
        family=name,
        way="split",
        make=lambda levels, seed: make(name, seed),
        levels=(5,),
        batch=batch,
        attach=attach,
        step=step,
        weigh=weigh,
        by=("level", "class", "size") if name == "atss" else ("level",),
    )


SUBJECTS = {name: _subject(name) for name in FACTORIES}
