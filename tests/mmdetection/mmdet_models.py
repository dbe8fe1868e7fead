"""Tiny MMDetection detectors of every balanced family, batches for them, and a slow reference."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integrations")]

import mmcv_ext
from mmdet_configs import CHANNELS, CLASSES, FAMILIES, LISTS, config
from subject import Step, Subject

if importlib.util.find_spec("mmcv._ext") is None:
    mmcv_ext.install()

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from scalewise.integrations.mmengine import attach
from scalewise.weighting import LossBalancer

SIDE = 64
Data = tuple[Tensor, list[Any]]

register_all_modules(init_default_scope=True)
MMLogger.get_current_instance().setLevel("WARNING")  # init_weights tells of every parameter


class TinyPyramid(nn.Module):
    """Levels of strides 8, 16, ..."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=8, padding=1)
        self.steps = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1) for _ in range(levels - 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [self.stem(x).tanh()]
        for step in self.steps:
            maps.append(step(maps[-1]).tanh())
        return tuple(maps)


MODELS.register_module(module=TinyPyramid, force=True)


def make(family: str, levels: int = 3, seed: int = 0) -> Any:
    """A model in training mode."""
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(config(family, levels)))
    model.init_weights()
    return model.train()


def batch(counts: tuple[int, ...], seed: int = 1) -> Data:
    """Images with that many objects each, of all sizes."""
    draw = torch.Generator().manual_seed(seed)
    images, samples = [], []
    for count in counts:
        images.append(torch.rand(3, SIDE, SIDE, generator=draw))
        corner = torch.rand(count, 2, generator=draw) * 30
        side = 5 + torch.rand(count, 2, generator=draw) * 28
        labels = torch.randint(0, CLASSES, (count,), generator=draw)
        boxes = torch.cat([corner, corner + side], dim=1)
        shape = (SIDE, SIDE)
        sample = DetDataSample(
            metainfo={
                "img_shape": shape,
                "ori_shape": shape,
                "pad_shape": shape,
                "batch_input_shape": shape,
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return torch.stack(images), samples


def step(model: Any, data: Data) -> Step:
    """Losses and gradients of one training step; samplers draw the same every time."""
    MessageHub.get_current_instance().update_info("epoch", 0)  # TOOD asks the Runner's
    torch.manual_seed(7)
    model.zero_grad()
    inner = getattr(model, "module", model)
    counts = getattr(getattr(inner, "bbox_head", None), "cls_num_pos_samples_per_level", None)
    if counts:  # DDOD weighs levels by all positives so far, and saves their number nowhere
        counts[:] = [0.0] * len(counts)
    total, losses = inner.parse_losses(model(*data, mode="loss"))
    total.backward()
    gradients = {n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}
    return {key: value.detach() for key, value in losses.items()}, gradients


def weigh(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Make the gradients of a plain model the weighted ones.

    The head's own loss is computed once for every level, with the predictions of all others
    detached; the sum of these, each times its weight, has the gradients wanted and the value as it
    was. The loss of RepPoints has a parameter of all levels, and DDOD's counts its calls: there the
    gradient that enters each entry of the lists is multiplied.
    """
    ((name, own),) = weights.items()
    head = model.rpn_head if name == "rpn" else model.bbox_head
    plain = head.loss_by_feat

    def by_level(*args: Any, **named: Any) -> dict[str, Any]:
        kinds = [part for part in args if isinstance(part, (list, tuple)) and _is_maps(part)]
        others = args[len(kinds) :]
        state = torch.get_rng_state()
        result: dict[str, Any] = {}
        for level, weight in enumerate(own):
            torch.set_rng_state(state)  # the sample of the step is drawn once
            alone = [
                [m if at == level else _detached(m) for at, m in enumerate(maps)] for maps in kinds
            ]
            for key, value in plain(*alone, *others, **named).items():
                entries = value if isinstance(value, list) else [value]
                total = sum(entry.mean() for entry in entries)
                if level == 0:
                    result[key] = total.detach()
                if "loss" in key:
                    result[key] = result[key] + weight.to(total.dtype) * (total - total.detach())
        return result

    def by_entry(*args: Any, **named: Any) -> dict[str, Any]:
        losses: dict[str, Any] = plain(*args, **named)
        for entries in losses.values():
            for entry, weight in zip(entries, own, strict=True):
                entry.register_hook(lambda g, w=weight: (g.float() * w).to(g.dtype))
        return losses

    entries = type(head).__name__ in ("RepPointsHead", "DDODHead")
    head.loss_by_feat = by_entry if entries else by_level


def _is_maps(part: Any) -> bool:
    first = part[0]  # SABL's is a pair
    return isinstance(first, Tensor) or (isinstance(first, tuple) and _is_maps(first))


def _detached(maps: Any) -> Any:
    return maps.detach() if isinstance(maps, Tensor) else tuple(m.detach() for m in maps)


def _attach(model: Any, scheme: Any, **settings: Any) -> Mapping[str, LossBalancer]:
    return attach(model, scheme, **settings).balancers


SUBJECTS: dict[str, Subject] = {
    family: Subject(
        framework=f"MMDetection {version('mmdet')}",
        family=family,
        way="split" if family in LISTS else "gradient scaling",
        make=partial(make, family),
        # VFNet fails to build with one level, YOLOv3 starts from NaN at strides of 256 and more
        levels={"VFNet": (3, 7), "YOLOv3": (3, 1, 5)}.get(family, (3, 1, 7)),
        batch=batch,
        attach=_attach,
        step=step,
        weigh=weigh,
        unable={"bf16": "VFNet's own loss mixes dtypes under autocast"}
        if family == "VFNet"
        else {},
    )
    for family in FAMILIES
}


def train_rank(rank: int) -> dict[str, Tensor]:
    """One of two processes: five steps of FCOS on data of its own, and what it saw."""
    model = MMDistributedDataParallel(make("FCOS"))
    attached = attach(model, "avw", interval=2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    losses = []
    for index in range(5):
        images, samples = batch((3, 1), 10 * index + rank)
        model.train_step({"inputs": images, "data_samples": samples}, wrapper)
        losses.append(torch.stack(list(attached.level_losses["dense"].values())).sum(0))
    return {
        "losses": torch.stack(losses),
        "weights": attached.weights["dense"],
        "mean": attached.balancers["dense"].statistics.mean,
        "stem": model.module.backbone.stem.weight.detach(),
    }
