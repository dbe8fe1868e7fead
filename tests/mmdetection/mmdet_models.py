"""Tiny MMDetection detectors of every supported family, and batches for them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integrations")]

import mmcv_ext
import numpy as np
from mmdet_configs import EDGES, FAMILIES, SIDE, config
from mmdet_one_stage import CHANNELS, CLASSES
from subject import Step, Subject

if importlib.util.find_spec("mmcv._ext") is None:
    mmcv_ext.install()

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmdet_reference import forget_counts, weigh
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from scalewise.integrations.mmengine import attach_mmdet
from scalewise.integrations.mmengine_weights import GroupWeights
from scalewise.integrations.options import KINDS, Options
from scalewise.weighting import LossBalancer

Data = tuple[Tensor, list[Any]]

register_all_modules(init_default_scope=True)
MMLogger.get_current_instance().setLevel("WARNING")  # init_weights logs every parameter


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
    for number, count in enumerate(counts):
        images.append(torch.rand(3, SIDE, SIDE, generator=draw))
        corner = torch.rand(count, 2, generator=draw) * 30
        side = 8 + torch.rand(count, 2, generator=draw) * 25
        labels = torch.randint(0, CLASSES, (count,), generator=draw)
        if number == 0:  # an object of class 0 for which every head has positives
            side[:1].clamp_(min=14)
            labels[:1] = 0
        boxes = torch.cat([corner, corner + side], dim=1)
        shape = (SIDE, SIDE)
        sample = DetDataSample(
            metainfo={
                "img_shape": shape,
                "ori_shape": shape,
                "pad_shape": shape,
                "batch_input_shape": shape,
                "scale_factor": (1.0, 0.5) if number else (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return torch.stack(images), samples


def _draw_masks(sample: Any) -> None:
    """Add masks of stripes; only to models that need them, since some assigners use masks."""
    place, count = np.indices((SIDE, SIDE)).sum(0), len(sample.gt_instances)
    stripes = np.array([place % (3 + k) > 0 for k in range(count)]).reshape(count, SIDE, SIDE)
    sample.gt_instances.masks = BitmapMasks(stripes.astype(np.uint8), SIDE, SIDE)


def step(model: Any, data: Data) -> Step:
    """Losses and gradients of one training step; random samplers draw the same every time."""
    MessageHub.get_current_instance().update_info("epoch", 0)  # TOOD needs the Runner's epoch
    torch.manual_seed(7)
    model.zero_grad()
    inner = getattr(model, "module", model)
    forget_counts(getattr(inner, "bbox_head", None))
    if inner.with_mask:
        for sample in data[1]:
            _draw_masks(sample)
    total, losses = inner.parse_losses(model(*data, mode="loss"))
    total.backward()
    gradients = {n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}
    return {key: value.detach() for key, value in losses.items()}, gradients


def attach(
    model: Any,
    scheme: Any = None,
    by: str | None = "level",
    losses: Sequence[str] = (),
    **settings: Any,
) -> GroupWeights:
    """Attach weights, with edges of sizes that suit the batches."""
    return attach_mmdet(model, Options(by, scheme, size_edges=EDGES, **settings), losses)


def _attach(model: Any, scheme: Any, **settings: Any) -> Mapping[str, LossBalancer]:
    return attach(model, scheme, **settings).balancers


LEVELS_ONLY = ("FSAF", "RepPoints", "YOLOv3", "SABL", "GA-RetinaNet")


def kinds(family: str) -> tuple[str, ...]:
    """The kinds of groups that the family can be weighed by."""
    if family in LEVELS_ONLY:
        return ("level",)
    return tuple(k for k in KINDS if family != "FoveaBox" or "size" not in k)


SUBJECTS: dict[str, Subject] = {
    family: Subject(
        framework=f"MMDetection {version('mmdet')}",
        family=family,
        way="split" if family in LEVELS_ONLY else "gradient scaling",
        make=partial(make, family),
        # VFNet cannot be built with one level; YOLOv3 starts with NaN at strides from 256 on
        levels={"VFNet": (3, 7), "YOLOv3": (3, 1, 5)}.get(family, (3, 1, 7)),
        batch=batch,
        attach=_attach,
        step=step,
        weigh=weigh,
        by=kinds(family),
        exact=() if family == "YOLOX" else kinds(family),
        unable={"bf16": "VFNet's own loss mixes dtypes under autocast"}
        if family == "VFNet"
        else {},
    )
    for family in FAMILIES
}


def train_rank(rank: int) -> dict[str, Tensor]:
    """Train FCOS for five steps as one of two ranks with different data; return its records."""
    model = MMDistributedDataParallel(make("FCOS"))
    attached = attach(model, "avw", interval=2)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    losses = []
    for index in range(5):
        images, samples = batch((3, 1), 10 * index + rank)
        model.train_step({"inputs": images, "data_samples": samples}, wrapper)
        losses.append(attached.group_totals("dense"))
    return {
        "losses": torch.stack(losses),
        "weights": attached.weights["dense"],
        "mean": attached["dense"].statistics.mean,
        "stem": model.module.backbone.stem.weight.detach(),
    }
