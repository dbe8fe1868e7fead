"""Tiny detectors of transformers, batches for them, and a slow reference."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from subject import Step, Subject
from torch import Tensor, nn

from scalewise.integrations.detr import attach_detr
from scalewise.integrations.options import Options
from scalewise.weighting import LossBalancer

transformers: Any = pytest.importorskip("transformers", minversion="5.24")
loss_for_object_detection, loss_deformable_detr, loss_lw_detr, loss_rt_detr = (
    importlib.import_module(f"transformers.loss.loss_{name}")
    for name in ("for_object_detection", "deformable_detr", "lw_detr", "rt_detr")
)

NAMES = {0: "red", 1: "white", 2: "platelet"}
EDGES = (30.0, 60.0)
HEIGHT, WIDTH = 200, 300  # size of the original images
SIDES = torch.tensor([15.0, 45.0, 90.0])  # sides of the objects, in turn


def batch(counts: tuple[int, ...], seed: int = 1) -> dict[str, Any]:
    """Images with that many objects each, in turn small, medium and large."""
    draw = torch.Generator().manual_seed(seed)
    sides = torch.split(SIDES[torch.arange(sum(counts)) % 3], list(counts))
    labels = []
    for own in sides:
        shape = own[:, None] / torch.tensor([WIDTH, HEIGHT]) * torch.tensor([1.1, 1 / 1.1])
        centre = 0.3 + 0.4 * torch.rand(len(own), 2, generator=draw)
        boxes = torch.cat((centre, shape), 1)
        classes = torch.randint(0, len(NAMES), (len(own),), generator=draw)
        sizes = {"orig_size": torch.tensor([HEIGHT, WIDTH]), "size": torch.tensor([64, 64])}
        labels.append({"class_labels": classes, "boxes": boxes, **sizes})
    pixels = torch.randn(len(counts), 3, 64, 64, generator=draw)
    return {"pixel_values": pixels, "labels": labels}


def group_of(by: str, label: int, box: list[float]) -> int:
    """The group of an object, computed in the plainest way."""
    size = sum(math.sqrt(box[2] * WIDTH * box[3] * HEIGHT) >= edge for edge in EDGES)
    groups = {"class": label, "size": size, "size*class": size * len(NAMES) + label}
    return groups[by]


# The reference: the gradients of the plain loss at each query's predictions, times its weight


class Reference:
    """A loss function that weighs the gradients of the predictions it is given."""

    def __init__(self, theirs: Callable[..., Any], weights: Tensor, by: str) -> None:
        self.theirs, self.weights, self.by = theirs, weights, by

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        names = ["logits", "labels", "device", "pred_boxes", "config"]
        names += ["outputs_class", "outputs_coord"]
        given = dict(zip(names, inputs, strict=False)) | named
        grown = [n for n, v in given.items() if isinstance(v, Tensor) and v.requires_grad]
        leaves = {n: given[n].detach().clone().requires_grad_() for n in grown}
        loss, terms, auxiliary = self.theirs(**(given | leaves))
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        factors = self.factors(given)
        carried = sum(
            (given[n] * (g * factors[n]).detach()).sum()
            for n, g in zip(leaves, found, strict=True)
            if g is not None
        )
        return loss.detach() + carried - carried.detach(), terms, auxiliary

    def factors(self, given: dict[str, Any]) -> dict[str, Tensor]:
        """Weights for the queries of each argument; 1 for a query without an object."""
        meta = given.get("denoising_meta_values")
        known = {"logits": self.layer(given, given["logits"], given["pred_boxes"], meta)}
        known["pred_boxes"] = known["logits"]
        if given.get("outputs_class") is not None:
            layers = 1 if "enc_topk_logits" in given else 0  # the dimension of the layers
            both = (given[n].unbind(layers) for n in ("outputs_class", "outputs_coord"))
            each = [self.layer(given, one, box, meta) for one, box in zip(*both, strict=True)]
            known["outputs_class"] = known["outputs_coord"] = torch.stack(each, layers)
            if given.get("predicted_corners") is not None:  # D-FINE: first layers only
                corners = given["predicted_corners"].shape[1]
                known["predicted_corners"] = torch.stack(each[:corners], layers)
        for name, other in (
            ("enc_topk_logits", "enc_topk_bboxes"),
            ("enc_outputs_class", "enc_outputs_coord"),
        ):
            if given.get(name) is not None:
                known[name] = known[other] = self.layer(given, given[name], given[other], None)
        return known

    def layer(self, given: dict[str, Any], logits: Tensor, boxes: Tensor, meta: Any) -> Tensor:
        """Weights [B, Q, 1] of one layer's predictions [B, Q, ...], denoising queries first."""
        factor, labels = torch.ones(*logits.shape[:2], 1), given["labels"]
        first = meta["dn_num_split"][0] if meta else 0
        seen = {"logits": logits[:, first:], "pred_boxes": boxes[:, first:]}
        for image, (queries, objects) in enumerate(match(given["config"], seen, labels)):
            for query, at in zip(queries.tolist(), objects.tolist(), strict=True):
                factor[image, first + query] = self.weight(labels[image], at)
        for image, noisy in enumerate(meta["dn_positive_idx"] if meta else []):
            for place, query in enumerate(noisy.tolist()):
                at = place % len(labels[image]["boxes"])
                factor[image, query] = self.weight(labels[image], at)
        return factor

    def weight(self, label: dict[str, Tensor], at: int) -> float:
        box, own = label["boxes"][at].tolist(), int(label["class_labels"][at])
        return float(self.weights[group_of(self.by, own, box)])


def match(config: Any, seen: dict[str, Tensor], labels: Any) -> Any:
    """The pairs that a new matcher of the model's kind finds."""
    if hasattr(config, "matcher_class_cost"):
        return loss_rt_detr.RTDetrHungarianMatcher(config)(seen, labels)
    costs = (config.class_cost, config.bbox_cost, config.giou_cost)
    if hasattr(config, "group_detr"):
        return loss_lw_detr.LwDetrHungarianMatcher(*costs)(seen, labels, config.group_detr)
    if isinstance(config, transformers.DetrConfig):
        return loss_for_object_detection.HungarianMatcher(*costs)(seen, labels)
    return loss_deformable_detr.DeformableDetrHungarianMatcher(*costs)(seen, labels)


# Real but tiny models

OWN: dict[str, Any] = {
    "id2label": NAMES,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 9,
}
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4}
THREE: dict[str, Any] = {
    "encoder_in_channels": [8] * 3,
    "encoder_hidden_dim": 16,
    "decoder_in_channels": [16] * 3,
    "num_denoising": 8,
}
DEFORMABLE: dict[str, Any] = {
    "d_model": 32,
    "auxiliary_loss": True,
    "num_feature_levels": 2,
    "with_box_refine": True,
}
SMALL: dict[str, Any] = {"layer_type": "basic"}
GRAPH: dict[str, Any] = {
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8] * 4,
    "stage_mid_channels": [8] * 4,
    "stage_out_channels": [8] * 4,
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [1] * 4,
    "stage_light_block": [False] * 4,
    "stage_kernel_size": [3] * 4,
}
# By family: the config class of the backbone, its settings, stages used, and settings of the model
FAMILIES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "Detr": ("ResNetConfig", SMALL, 1, {"auxiliary_loss": True}),
    "ConditionalDetr": ("ResNetConfig", SMALL, 1, {"auxiliary_loss": True}),
    "DeformableDetr": ("ResNetConfig", SMALL, 2, DEFORMABLE),
    "RTDetr": ("RTDetrResNetConfig", SMALL, 3, THREE),
    "RTDetrV2": ("RTDetrResNetConfig", SMALL, 3, THREE),
    "DFine": ("HGNetV2Config", GRAPH, 3, THREE),
}


def make(family: str, seed: int = 0, **more: Any) -> Any:
    """A model in training mode with fixed BatchNorm, else gradients before it are rounding only."""
    backbone, settings, stages, others = FAMILIES[family]
    names = [f"stage{i}" for i in range(5 - stages, 5)]
    own = getattr(transformers, backbone)(**STAGES | settings, out_features=names)
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**OWN | others | more, backbone_config=own)
    model = getattr(transformers, f"{family}ForObjectDetection")(config).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(batch((0, 0, 0))["pixel_values"])
    for norm in norms:
        norm.eval()
    return model


def step(model: nn.Module, data: dict[str, Any]) -> Step:
    """Losses and gradients of one training step, with the same dropout and noise every time."""
    torch.manual_seed(7)
    model.zero_grad()
    found = model(**data)
    found.loss.backward()
    own = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    losses = {"loss": found.loss} | found.loss_dict
    return {n: torch.as_tensor(v).detach() for n, v in losses.items()}, own


def balancers(model: Any, scheme: Any, by: str, **others: Any) -> dict[str, LossBalancer]:
    attached = attach_detr(model, Options(by, scheme, size_edges=EDGES, **others))
    return {"queries": attached["queries"]}


def weigh(model: Any, weights: Mapping[str, Tensor], by: str) -> None:
    model.loss_function = Reference(model.loss_function, weights["queries"], by)


def _subject(family: str) -> Subject:
    return Subject(
        framework=f"transformers {transformers.__version__}",
        family=family,
        way="gradient scaling",
        make=lambda levels, seed: make(family, seed),
        levels=(0,),
        batch=batch,
        attach=balancers,
        step=step,
        weigh=weigh,
        by=("class",),
        exact=("class",),
    )


SUBJECTS = {family: _subject(family) for family in FAMILIES}
