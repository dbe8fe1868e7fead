"""Scalewise's own detectors as subjects: level losses through a `LossBalancer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from subject import Step, Subject
from torch import Tensor, nn

import scalewise as sw
from scalewise.detectors import Batch, DenseDetector, atss, fcos, retinanet
from scalewise.integrations.loops import keep_from_broadcast
from scalewise.weighting import LossBalancer

SIDE, CLASSES = 128, 4
FACTORIES = {"atss": atss, "fcos": fcos, "retinanet": retinanet}


class Weighted(nn.Module):
    """A detector that returns its total loss, weighed once it has a balancer."""

    balancer: LossBalancer | None

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = detector
        self.balancer = None

    def levels(self, batch: Batch) -> Tensor:
        """Loss [n] of each level, over all terms."""
        return torch.stack(list(self.detector.losses(batch).values())).sum(0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        levels = self.levels(batch)
        return {"loss": levels.sum() if self.balancer is None else self.balancer(levels)}


class ByLevel(Weighted):
    """The reference: each level's loss is back-propagated alone."""

    reference: Tensor


def make(name: str, seed: int) -> Weighted:
    """A detector with BatchNorm fixed at the statistics of noise, so that images do not interact.

    At the statistics of a fresh BatchNorm the coarse maps would hardly depend on the image.
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

    The seed draws the images alone. So two ranks that differ in it have the same positives, and the
    detectors' normaliser, an average over ranks, is the one of each rank alone.
    """
    draw = torch.Generator().manual_seed(100)
    images, most = len(counts), max(counts)
    share = torch.tensor([0.9, 0.15, 0.5, 0.25])[torch.arange(most) % 4]  # of the image's side
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


def attach(model: Weighted, scheme: Any, **options: Any) -> dict[str, LossBalancer]:
    """Give the model a balancer, whose records data parallelism leaves alone."""
    model.balancer = sw.LossBalancer(model.detector.num_levels, scheme, **options)
    keep_from_broadcast(model)
    return {"dense": model.balancer}


def step(model: nn.Module, data: Batch) -> Step:
    """Loss and gradients of one training step."""
    model.zero_grad()
    if isinstance(model, ByLevel):
        return _by_level(model, data)
    losses = model(data)
    losses["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": losses["loss"].detach()}, gradients


def weigh(model: Weighted, weights: Mapping[str, Tensor]) -> None:
    """From now on `step` adds up gradients of single levels, each times its weight."""
    model.__class__ = ByLevel
    assert isinstance(model, ByLevel)
    model.reference = weights["dense"]


def _by_level(model: ByLevel, data: Batch) -> Step:
    levels = model.levels(data)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gradients: dict[str, Tensor] = {}
    for weight, level in zip(model.reference.tolist(), levels, strict=True):
        alone = torch.autograd.grad(
            level, [p for _, p in named], retain_graph=True, allow_unused=True
        )
        for (name, _), gradient in zip(named, alone, strict=True):
            if gradient is not None:
                gradients[name] = gradients.get(name, 0) + weight * gradient
    total = (levels.detach() * model.reference).sum()
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
    )


SUBJECTS = {name: _subject(name) for name in FACTORIES}
