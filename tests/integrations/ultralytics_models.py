"""Tiny YOLO models of every supported family and task, and batches for them."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from typing import Any

os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp()  # folder of its settings file
os.environ["YOLO_OFFLINE"] = "true"

import torch
import ultralytics
from subject import Step, Subject
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel
from ultralytics.utils.tal import TaskAlignedAssigner

from scalewise.integrations.options import KINDS, Options
from scalewise.integrations.ultralytics_loss import attach_yolo
from scalewise.weighting import LossBalancer, scale_gradients

SIDE, CLASSES, CHANNELS, POINTS = 64, 4, 16, 3
EDGES = (20.0, 32.0)  # limits between sizes, in pixels
ONE_LEVEL = hasattr(TaskAlignedAssigner(), "stride_val")  # 8.4.0 needs a second stride
BLOCKS: dict[str, list[Any]] = {
    "yolov5u": ["C3", [CHANNELS]],
    "yolov8": ["C2f", [CHANNELS, True]],
    "yolov10": ["C2f", [CHANNELS, True]],
    "yolo11": ["C3k2", [CHANNELS, False]],
    "yolo12": ["A2C2f", [CHANNELS, False, 1, False, 2.0, 2.0]],
    "yolo26": ["C3k2", [CHANNELS, False]],
}
TASKS: dict[str, tuple[Any, str, list[Any]]] = {  # model class, head, and its arguments
    "detect": (DetectionModel, "Detect", []),
    "segment": (SegmentationModel, "Segment", [4, 8]),
    "pose": (PoseModel, "Pose", [[POINTS, 3]]),
    "obb": (OBBModel, "OBB", [1]),
}


def plan(family: str, levels: int = 3, task: str = "detect") -> dict[str, Any]:
    """The config of a model with strides 4, 8, 16, or 2, ..., 32, 32, 32 for many levels.

    The coarsest map keeps 2 x 2 cells, which BatchNorm needs for a single image.
    """
    backbone = []
    for level in range(levels):
        stride = 4 if level == 0 and levels <= 3 else 2 if level <= 4 else 1
        backbone += [[-1, 1, "Conv", [CHANNELS, 3, stride]], [-1, 1, *BLOCKS[family]]]
    _, kind, takes = TASKS[task]
    if family == "yolov10":
        kind = "v10Detect"
    elif family == "yolo26" and task != "detect":
        kind += "26"
    own = {"end2end": True, "reg_max": 1} if family == "yolo26" else {}
    return own | {
        "nc": CLASSES,
        "kpt_shape": [POINTS, 3],
        "scales": {"n": [1.0, 1.0, CHANNELS]},  # depth, width, most channels
        "backbone": backbone,
        "head": [[[2 * level + 1 for level in range(levels)], 1, kind, ["nc", *takes]]],
    }


def make(family: str, levels: int = 3, seed: int = 0, task: str = "detect") -> Any:
    """A model in training mode.

    Predicted boxes start with sides of about four strides, so that each of the first levels gets
    objects.
    """
    torch.manual_seed(seed)
    model: Any = TASKS[task][0](plan(family, levels, task), ch=3, nc=CLASSES, verbose=False)
    model.args = get_cfg()
    model.args.angle = 0.0  # no term for the angle, which is not weighed
    head = model.model[-1]
    for convs in (head.cv2, getattr(head, "one2one_cv2", None) or []):
        for conv in convs if head.reg_max > 1 else []:
            conv[-1].bias.data.view(4, head.reg_max)[:, 2] += 6
    return model.train()


def batch(counts: tuple[int, ...], seed: int = 1, task: str = "detect") -> dict[str, Tensor]:
    """Images with that many objects each, of all sizes; the first object is always of class 0."""
    draw = torch.Generator().manual_seed(seed)
    total = sum(counts)
    data = {
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
    data["cls"][:1] = 0.0
    data["resized_shape"] = torch.full((len(counts), 2), SIDE)  # older releases need it
    if task == "segment":
        data["masks"] = masks = torch.zeros(len(counts), SIDE // 4, SIDE // 4)
        data["sem_masks"] = torch.zeros_like(masks)
        for image, count in enumerate(counts):
            own = (data["batch_idx"] == image).nonzero()[:, 0]
            for place, (x, y, w, h) in enumerate((data["bboxes"][own] * SIDE / 4).tolist()):
                area = (
                    slice(int(y - h / 2), int(y + h / 2)),
                    slice(int(x - w / 2), int(x + w / 2)),
                )
                masks[image][area] = place + 1
                data["sem_masks"][image][area] = data["cls"][own[place]]
            assert count == len(own)
    elif task == "pose":
        data["keypoints"] = 0.3 + 0.4 * torch.rand(total, POINTS, 3, generator=draw)
        data["keypoints"][..., 2] = 2.0
    elif task == "obb":
        data["bboxes"] = torch.cat((data["bboxes"], torch.rand(total, 1, generator=draw)), 1)
    return data


def step(model: nn.Module, data: dict[str, Tensor]) -> Step:
    """Losses and gradients of one training step."""
    model.zero_grad()
    losses, _ = model(data)
    losses.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {str(place): loss for place, loss in enumerate(losses.detach())}, gradients


def balancers(model: Any, scheme: Any, by: str, **others: Any) -> dict[str, LossBalancer]:
    options = Options(by, scheme, size_edges=EDGES, **others)
    return {"dense": attach_yolo(model, options)["dense"]}


def parts(model: Any) -> list[Any]:
    """The criteria of the branches, in the order of their calls."""
    criterion = model.criterion
    return [criterion.one2many, criterion.one2one] if hasattr(criterion, "one2one") else [criterion]


def group_of(by: str, label: int, box: list[float], level: int) -> int:
    """The group of an anchor that has an object, computed in the plainest way."""
    sides = box[2:4] if len(box) == 5 else [box[2] - box[0], box[3] - box[1]]
    size = sum(math.sqrt(sides[0] * sides[1]) >= edge for edge in EDGES)
    return {"class": label, "size": size, "size*class": size * CLASSES + label}.get(by, level)


def groups_of(by: str, inputs: Any, found: Any) -> Tensor:
    """Groups int64 [B, A] (-1: background), from the inputs and outputs of an assigner."""
    points, labels, boxes = inputs[2:5]
    positive, objects = found[3:5]
    groups = torch.full(positive.shape, -1)
    areas = [(SIDE // stride) ** 2 for stride in (4, 8, 16)]
    assert len(points) == sum(areas)
    for image, anchor in positive.nonzero().tolist():
        own = image, int(objects[image, anchor])
        level = sum(anchor >= sum(areas[:more]) for more in (1, 2))
        groups[image, anchor] = group_of(by, int(labels[own]), boxes[own].tolist(), level)
    return groups


def weigh(model: Any, weights: Mapping[str, Tensor], by: str) -> None:
    """Weigh the gradients of each anchor's predictions, and leave the loss as it is."""
    if by == "level":
        model.model[-1].register_forward_hook(partial(_scale_levels, weights["dense"]))
        return
    found: list[Tensor] = []
    padded = torch.cat((weights["dense"], torch.ones(1)))  # -1 is the background

    def note(assigner: Any, inputs: Any, outputs: Any) -> None:
        found.append(padded[groups_of(by, inputs, outputs)])

    def hook(head: nn.Module, inputs: Any, preds: dict[str, Any]) -> None:
        found.clear()
        branches = [preds] if "feats" in preds else [preds["one2many"], preds["one2one"]]
        for place, branch in enumerate(branches):
            for name in {"boxes", "scores", "angle"} & branch.keys():
                branch[name].register_hook(partial(_scale, found, place))

    model.criterion = model.init_criterion()
    for part in parts(model):
        part.assigner.register_forward_hook(note)
    model.model[-1].register_forward_hook(hook)


def _scale(found: list[Tensor], place: int, gradient: Tensor) -> Tensor:
    return (gradient.float() * found[place][:, None]).to(gradient.dtype)


def _scale_levels(weights: Tensor, head: nn.Module, inputs: Any, preds: dict[str, Any]) -> Any:
    if "feats" not in preds:
        return {key: _scale_levels(weights, head, inputs, part) for key, part in preds.items()}
    counts = [level.shape[-2] * level.shape[-1] for level in preds["feats"]]
    scaled = {
        key: torch.cat(scale_gradients(preds[key].split(counts, -1), weights), -1)
        for key in ("boxes", "scores")
    }
    return preds | scaled


def _subject(family: str, task: str = "detect", *, by: tuple[str, ...]) -> Subject:
    return Subject(
        framework=f"Ultralytics {ultralytics.__version__}",
        family=family if task == "detect" else f"{family}-{task}",
        way="split",
        make=lambda levels, seed: make(family, levels, seed, task),
        levels=(3, 1, 7) if ONE_LEVEL else (3, 7),
        batch=partial(batch, task=task),
        attach=balancers,
        step=step,
        weigh=weigh,
        by=by,
        exact=by,
    )


SUBJECTS = {family: _subject(family, by=("level", "size")) for family in BLOCKS}
SUBJECTS["yolo11"] = _subject("yolo11", by=KINDS)
SUBJECTS["yolo26"] = _subject("yolo26", by=("level", "class"))
# The segmentation loss of 8.4.0 itself fails on a batch of two images
OTHERS = ("pose", "obb") if ultralytics.__version__ == "8.4.0" else ("segment", "pose", "obb")
SUBJECTS |= {
    f"{family}-{task}": _subject(family, task, by=("class",))
    for family in ("yolo11", "yolo26")
    for task in OTHERS
}
SUBJECTS["yolo11-obb"] = _subject("yolo11", "obb", by=("class", "size"))
