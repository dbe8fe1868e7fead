"""Tiny YOLO models of every supported family, and batches for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp()  # its settings file
os.environ["YOLO_OFFLINE"] = "true"

import torch
import ultralytics
from subject import Step, Subject
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.tal import TaskAlignedAssigner

from scalewise.integrations.ultralytics_loss import TERMS, attach
from scalewise.weighting import LossBalancer, scale_gradients

SIDE, CLASSES, CHANNELS = 64, 4, 16
ONE_LEVEL = hasattr(TaskAlignedAssigner(), "stride_val")  # 8.4.0 asks for the second stride
BLOCKS: dict[str, list[Any]] = {
    "yolov5u": ["C3", [CHANNELS]],
    "yolov8": ["C2f", [CHANNELS, True]],
    "yolov10": ["C2f", [CHANNELS, True]],
    "yolo11": ["C3k2", [CHANNELS, False]],
    "yolo12": ["A2C2f", [CHANNELS, False, 1, False, 2.0, 2.0]],
    "yolo26": ["C3k2", [CHANNELS, False]],
}


def plan(family: str, levels: int = 3) -> dict[str, Any]:
    """A model of strides 4, 8, 16; many levels are 2, ..., 32, 32, 32.

    The coarsest map keeps 2 x 2 cells, which BatchNorm needs for a single image.
    """
    backbone = []
    for level in range(levels):
        stride = 4 if level == 0 and levels <= 3 else 2 if level <= 4 else 1
        backbone += [[-1, 1, "Conv", [CHANNELS, 3, stride]], [-1, 1, *BLOCKS[family]]]
    kind = "v10Detect" if family == "yolov10" else "Detect"
    own = {"end2end": True, "reg_max": 1} if family == "yolo26" else {}
    return own | {
        "nc": CLASSES,
        "scales": {"n": [1.0, 1.0, CHANNELS]},  # depth, width, most channels
        "backbone": backbone,
        "head": [[[2 * level + 1 for level in range(levels)], 1, kind, ["nc"]]],
    }


def make(family: str, levels: int = 3, seed: int = 0) -> Any:
    """A model in training mode.

    Boxes start with sides of about four strides, so that objects are assigned to each of the first
    levels.
    """
    torch.manual_seed(seed)
    model: Any = DetectionModel(plan(family, levels), ch=3, nc=CLASSES, verbose=False)
    model.args = get_cfg()
    head = model.model[-1]
    for convs in (head.cv2, getattr(head, "one2one_cv2", [])):
        for conv in convs if head.reg_max > 1 else []:
            conv[-1].bias.data.view(4, head.reg_max)[:, 2] += 6
    return model.train()


def batch(counts: tuple[int, ...], seed: int = 1) -> dict[str, Tensor]:
    """Images with that many objects each, of all sizes."""
    draw = torch.Generator().manual_seed(seed)
    total = sum(counts)
    return {
        "img": torch.rand(len(counts), 3, SIDE, SIDE, generator=draw),
        "batch_idx": torch.repeat_interleave(torch.tensor(counts)).float(),
        "cls": torch.randint(0, CLASSES, (total, 1), generator=draw).float(),
        "bboxes": torch.cat(
            (
                0.4 + 0.2 * torch.rand(total, 2, generator=draw),
                0.2 + 0.6 * torch.rand(total, 2, generator=draw),
            ),
            dim=1,
        ),
    }


def step(model: nn.Module, data: dict[str, Tensor]) -> Step:
    """Losses and gradients of one training step."""
    model.zero_grad()
    losses, _ = model(data)
    losses.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return dict(zip(TERMS, losses.detach(), strict=True)), gradients


def balancers(model: Any, scheme: Any, **options: Any) -> dict[str, LossBalancer]:
    return {"dense": attach(model, scheme, **options).balancer}


def weigh(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Multiply the gradients of each level's predictions; the loss is left alone."""

    def branch(preds: dict[str, Any]) -> dict[str, Any]:
        counts = [level.shape[-2] * level.shape[-1] for level in preds["feats"]]
        scaled = {
            key: torch.cat(scale_gradients(preds[key].split(counts, -1), weights["dense"]), -1)
            for key in ("boxes", "scores")
        }
        return preds | scaled

    def hook(head: nn.Module, inputs: Any, preds: dict[str, Any]) -> dict[str, Any]:
        if "feats" in preds:
            return branch(preds)
        return {key: branch(part) for key, part in preds.items()}

    model.model[-1].register_forward_hook(hook)


def _subject(family: str) -> Subject:
    return Subject(
        framework=f"Ultralytics {ultralytics.__version__}",
        family=family,
        way="split",
        make=lambda levels, seed: make(family, levels, seed),
        levels=(3, 1, 7) if ONE_LEVEL else (3, 7),
        batch=batch,
        attach=balancers,
        step=step,
        weigh=weigh,
    )


SUBJECTS = {family: _subject(family) for family in BLOCKS}
