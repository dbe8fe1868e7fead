"""Weights on matched queries, against transformers' own losses, gradients and matchers."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checks
import pytest
import torch
from subject import Step, Subject
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import scalewise as sw
from scalewise.integrations.attached import NAME
from scalewise.integrations.detr import LOSSES, attach_detr
from scalewise.integrations.options import AttachError, Options
from scalewise.weighting import LossBalancer

transformers: Any = pytest.importorskip("transformers", minversion="5.24")
loss_for_object_detection, loss_deformable_detr, loss_lw_detr, loss_rt_detr = (
    importlib.import_module(f"transformers.loss.loss_{name}")
    for name in ("for_object_detection", "deformable_detr", "lw_detr", "rt_detr")
)

NAMES = {0: "red", 1: "white", 2: "platelet"}
EDGES = (30.0, 60.0)
HEIGHT, WIDTH = 200, 300  # of the original images
KINDS = ("class", "size", "size*class")
SIDES = torch.tensor([15.0, 45.0, 90.0])  # of each third object


def batch(counts: tuple[int, ...], seed: int = 1) -> dict[str, Any]:
    """Images with that many objects each; one after another small, medium and large."""
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
    """As plainly as it can be said."""
    size = sum(math.sqrt(box[2] * WIDTH * box[3] * HEIGHT) >= edge for edge in EDGES)
    groups = {"class": label, "size": size, "size*class": size * len(NAMES) + label}
    return groups[by]


# The reference: gradients of the plain loss by its own arguments, each query's times its weight


class Reference:
    """A loss function whose gradients are weighed where the model hands its predictions over."""

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
        """Of each argument, 1 for a query without an object."""
        meta = given.get("denoising_meta_values")
        known = {"logits": self.layer(given, given["logits"], given["pred_boxes"], meta)}
        known["pred_boxes"] = known["logits"]
        if given.get("outputs_class") is not None:
            layers = 1 if "enc_topk_logits" in given else 0  # the place of the layers' dimension
            both = (given[n].unbind(layers) for n in ("outputs_class", "outputs_coord"))
            each = [self.layer(given, one, box, meta) for one, box in zip(*both, strict=True)]
            known["outputs_class"] = known["outputs_coord"] = torch.stack(each, layers)
            if given.get("predicted_corners") is not None:  # D-FINE has them of the first layers
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
        """Of one layer's predictions [B, Q, ...], as [B, Q, 1]; denoising queries come first."""
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
    """The model's own matcher, asked anew."""
    if hasattr(config, "matcher_class_cost"):
        return loss_rt_detr.RTDetrHungarianMatcher(config)(seen, labels)
    costs = (config.class_cost, config.bbox_cost, config.giou_cost)
    if hasattr(config, "group_detr"):
        return loss_lw_detr.LwDetrHungarianMatcher(*costs)(seen, labels, config.group_detr)
    if isinstance(config, transformers.DetrConfig):
        return loss_for_object_detection.HungarianMatcher(*costs)(seen, labels)
    return loss_deformable_detr.DeformableDetrHungarianMatcher(*costs)(seen, labels)


# A model that is nothing but its predictions, for every loss function

LAYERS, QUERIES, GROUPS, MOST = 3, 8, 2, 3  # groups of denoising queries, of MOST objects
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "DetrForObjectDetection": ("DetrConfig", {}),
    "ConditionalDetrForObjectDetection": ("ConditionalDetrConfig", {}),
    "LwDetrForObjectDetection": ("LwDetrConfig", {"group_detr": 2, "class_loss_coefficient": 2.0}),
    "RTDetrForObjectDetection": ("RTDetrConfig", {}),
    "DFineForObjectDetection": ("DFineConfig", {}),
    "Deimv2ForObjectDetection": ("Deimv2Config", {"use_dense_one_to_one": False}),
}
COUNTS = (3, 1)


def build(self: Any, config: Any, arguments: dict[str, Tensor]) -> None:
    transformers.PreTrainedModel.__init__(self, config)
    self.found = nn.ParameterDict(arguments)


def forward(self: Any, labels: Any, pixel_mask: Any = None) -> Any:
    given: dict[str, Any] = dict(self.found)
    if "enc_topk_logits" in given:
        given |= {"logits": given["outputs_class"][:, -1]}
        given |= {"pred_boxes": given["outputs_coord"][:, -1]}
        first = 2 * MOST * GROUPS
        noisy = [
            torch.tensor(
                [2 * MOST * g + k for g in range(GROUPS) for k in range(len(one["boxes"]))]
            )
            for one in labels
        ]
        given["denoising_meta_values"] = {
            "dn_num_split": [first, QUERIES],
            "dn_positive_idx": noisy,
            "dn_num_group": GROUPS,
        }
    loss, terms, _ = self.loss_function(
        labels=labels, device=torch.device("cpu"), config=self.config, **given
    )
    return transformers.utils.ModelOutput(loss=loss, terms=terms)


def predictions(kind: str, seed: int = 0, **others: Any) -> Any:
    """A model with predictions for two images as its parameters."""
    draw = torch.Generator().manual_seed(seed)
    name, settings = SETTINGS[kind]
    common = {"id2label": NAMES, "auxiliary_loss": True, "decoder_layers": LAYERS}
    config = getattr(transformers, name)(**common | settings | others)
    classes = len(NAMES) + (kind == "DetrForObjectDetection")
    later = hasattr(config, "matcher_class_cost")
    queries = QUERIES + (2 * MOST * GROUPS if later else 0)
    lead = (2, LAYERS, queries) if later else (LAYERS, 2, queries)

    def boxes(*shape: int) -> Tensor:
        low = torch.tensor([0.3, 0.3, 0.05, 0.05])
        return low + torch.tensor([0.4, 0.4, 0.3, 0.3]) * torch.rand(*shape, 4, generator=draw)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    given = {"outputs_class": noise(*lead, classes), "outputs_coord": boxes(*lead)}
    if later:
        given |= {"enc_topk_logits": noise(2, QUERIES, classes)}
        given |= {"enc_topk_bboxes": boxes(2, QUERIES)}
    else:
        given |= {"logits": noise(2, queries, classes), "pred_boxes": boxes(2, queries)}
    if hasattr(config, "max_num_bins"):
        given["predicted_corners"] = noise(*lead, 4 * (config.max_num_bins + 1))
        given["initial_reference_points"] = boxes(*lead)
    if hasattr(config, "group_detr"):
        given |= {"enc_outputs_class": noise(2, QUERIES, classes)}
        given |= {"enc_outputs_coord": boxes(2, QUERIES)}
    model = type(kind, (transformers.PreTrainedModel,), {"__init__": build, "forward": forward})
    return model(config, given).train()


def labels_of(counts: tuple[int, ...] = COUNTS) -> Any:
    return batch(counts)["labels"]


def gradients(model: Any, labels: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradient of each of the predictions."""
    model.zero_grad()
    loss = model(labels=labels).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.found.items() if p.grad is not None}


def draw_weights(balancer: LossBalancer) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    balancer.weights.copy_(0.2 + 1.6 * torch.rand(balancer.num_groups, generator=draw))
    return balancer.weights.clone()


every = pytest.mark.parametrize("kind", SETTINGS)


def test_every_loss_function_is_here() -> None:
    assert {predictions(kind).loss_function.__name__ for kind in SETTINGS} == set(LOSSES)


@pytest.mark.parametrize("by", KINDS)
@every
def test_gradients_of_predictions_are_weighed_by_query(kind: str, by: str) -> None:
    for counts in (COUNTS, (0, 0)):
        labels = labels_of(counts)
        plain, equal, weighted = (predictions(kind) for _ in range(3))
        attach_detr(equal, Options(by, "equal", size_edges=EDGES))
        expected = gradients(plain, labels)
        found = gradients(equal, labels)
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(found[1][name], g) for name, g in expected[1].items())
        attached = attach_detr(weighted, Options(by, "equal", size_edges=EDGES))
        weights = draw_weights(attached["queries"])
        plain.loss_function = Reference(plain.loss_function, weights, by)
        found, reference = gradients(weighted, labels), gradients(plain, labels)
        assert torch.equal(found[0], expected[0])  # the loss is reported as it is
        checks.close(found[1], reference[1], f"gradients of {counts}")
        changed = any(not torch.equal(found[1][n], g) for n, g in expected[1].items())
        assert changed == (sum(counts) > 0)


@every
def test_a_query_has_gradients_of_its_own(kind: str) -> None:
    """What others predict does not move them, so that they can be weighed by query."""
    model, labels, own = predictions(kind), labels_of(), 1
    reference = Reference(model.loss_function, torch.tensor([2.0, 3.0, 4.0]), "class")
    before, matched = gradients(model, labels)[1], reference.factors(seen(model, labels))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.found.values():
            noise = 0.001 * torch.randn(parameter.shape, generator=draw)
            noise.transpose(0, -2)[own] = 0  # of one query, in every image and layer
            parameter += noise
    after = gradients(model, labels)[1]
    again = reference.factors(seen(model, labels))
    assert all(torch.equal(matched[name], other) for name, other in again.items())
    for name, gradient in after.items():
        mine, its = (g.transpose(0, -2)[own] for g in (gradient, before[name]))
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)
        assert not torch.equal(gradient, before[name])


def seen(model: Any, labels: Any) -> dict[str, Any]:
    """The arguments of a model's loss function."""
    theirs, given = model.loss_function, {}

    def note(**named: Any) -> Any:
        given.update(named)
        return theirs(**named)

    model.loss_function = note
    model(labels=labels)
    del model._loss_function
    return given


@every
def test_statistics_are_the_criterions_own_terms(kind: str) -> None:
    """Asked of the criterion for one query at a time."""
    model, labels = predictions(kind), labels_of()
    calls: list[Any] = []
    handle = register_module_forward_pre_hook(
        lambda module, inputs: (
            calls.append((module, *inputs)) if hasattr(module, "losses") else None
        )
    )
    total = model(labels=labels)
    handle.remove()
    ((criterion, outputs, _),) = calls
    attached = attach_detr(model, Options("class", "equal"))
    model(labels=labels)
    name = criterion.losses[0]
    objects = sum(COUNTS) * getattr(model.config, "group_detr", 1)
    expected = {key: torch.zeros(len(NAMES) + 1) for key in attached.group_losses}
    positives = torch.zeros(len(NAMES))
    main = {k: v for k, v in outputs.items() if k in ("logits", "pred_boxes")}
    pairs = match(model.config, main, labels)
    for image, (queries, at) in enumerate(pairs):
        owner = dict(zip(queries.tolist(), at.tolist(), strict=True))
        for query in range(main["logits"].shape[1]):
            alone = {k: v[image : image + 1, query : query + 1] for k, v in main.items()}
            k = [owner[query]] if query in owner else []
            target = {n: labels[image][n][k] for n in ("class_labels", "boxes")}
            index = [(torch.zeros(len(k), dtype=torch.int64),) * 2]
            group = int(target["class_labels"]) if k else len(NAMES)
            found = criterion.get_loss(name, alone, [target], index, objects)
            if name == "labels" and hasattr(criterion, "empty_weight"):
                found = {n: v * criterion.empty_weight[group] for n, v in found.items()}
            found |= criterion.get_loss("boxes", alone, [target], index, objects) if k else {}
            for key, value in found.items():
                expected[key][group] += value.detach()
            if k:
                positives[group] += 1
    if name == "labels" and hasattr(criterion, "empty_weight"):
        weight = criterion.empty_weight
        everything = (
            positives @ weight[:-1] + (main["logits"][..., 0].numel() - sum(COUNTS)) * weight[-1]
        )
        expected["loss_ce"] /= everything
    coefficients = getattr(criterion, "weight_dict", None) or {
        "loss_ce": getattr(model.config, "class_loss_coefficient", 1),
        "loss_bbox": model.config.bbox_loss_coefficient,
        "loss_giou": model.config.giou_loss_coefficient,
    }
    for key, value in attached.group_losses.items():
        torch.testing.assert_close(value, expected[key] * coefficients[key])
        own = total.terms[key].detach() * (
            1 if "weight_dict" in vars(criterion) else coefficients[key]
        )
        torch.testing.assert_close(value.sum(), own)
    row = attached["queries"].block[0]
    assert torch.equal(row[len(NAMES) + 1 :], positives)
    assert len(expected) == 3


# Real models, tiny

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
# By family: the backbone's config, its settings, the stages used, and the model's own settings
FAMILIES: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "Detr": ("ResNetConfig", SMALL, 1, {"auxiliary_loss": True}),
    "RTDetr": ("RTDetrResNetConfig", SMALL, 3, THREE),
    "DFine": ("HGNetV2Config", GRAPH, 3, THREE),
}


def make(family: str, seed: int = 0) -> Any:
    """A model in training mode, but for BatchNorm, before which gradients are mere rounding."""
    backbone, settings, stages, others = FAMILIES[family]
    names = [f"stage{i}" for i in range(5 - stages, 5)]
    own = getattr(transformers, backbone)(**STAGES | settings, out_features=names)
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**OWN | others, backbone_config=own)
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
    """Losses and gradients of one training step; dropout and noise are the same every time."""
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


# What the gradients of matched queries are multiplied by, under one weight that is not 1


def factor(kind: str, options: Options, labels: Any, **others: Any) -> dict[str, float]:
    """By image and object."""
    plain, model = predictions(kind), predictions(kind)
    attach_detr(model, options)
    for one in (plain, model):
        one(labels=labels, **others).loss.backward()
    given, found = seen(plain, labels), {}
    main = {n: given[n] for n in ("logits", "pred_boxes")}
    ratio = model.found["pred_boxes"].grad / plain.found["pred_boxes"].grad  # 0 / 0 elsewhere
    for image, (queries, objects) in enumerate(match(plain.config, main, labels)):
        for query, at in zip(queries.tolist(), objects.tolist(), strict=True):
            found[f"{image} {at}"] = round(float(ratio[image, query].nanmean()), 4)
    return found


def test_sizes_are_those_of_the_original_image() -> None:
    """Of 200 x 300 pixels, shown as 64 x 64 or with a third of padding to the right."""
    kind, options = "DetrForObjectDetection", Options("size", "size:small=3", size_edges=EDGES)
    expected = {"0 0": 3.0, "0 1": 1.0, "0 2": 1.0, "1 0": 3.0}
    labels = labels_of()
    assert factor(kind, options, labels) == expected
    for one in labels:  # boxes as the image processors leave them when they pad
        one["boxes"][:, [0, 2]] *= 2 / 3
    mask = torch.zeros(2, 64, 96, dtype=torch.int64)
    mask[:, :, :64] = 1
    for one in labels:
        one["size"] = torch.tensor([64, 96])
        one["boxes"][1:2, 2:] *= (EDGES[0] + 1) / SIDES[1]  # the medium one, if there is one
    assert factor(kind, options, labels, pixel_mask=mask) == expected
    narrow = factor(kind, options, labels)  # nobody says that there is padding
    assert narrow["0 1"] == 3.0
    for one in labels:
        del one["orig_size"]
    assert set(factor(kind, options, labels).values()) == {3.0}  # of 64 x 96 pixels
    for one in labels:
        del one["size"]
    with pytest.raises(AttachError, match="let each of the labels hold orig_size or size"):
        factor(kind, options, labels)
    by_class = Options("class", "class:red=3")
    assert set(factor(kind, by_class, labels).values()) <= {1.0, 3.0}  # needs no sizes


def test_the_dense_match_of_deimv2_is_weighed() -> None:
    """Its box losses are of more queries than the matcher's own."""
    kind, labels = "Deimv2ForObjectDetection", labels_of()
    for one in labels:
        one["class_labels"].fill_(1)
    plain, equal, model = (predictions(kind, use_dense_one_to_one=True) for _ in range(3))
    attach_detr(equal, Options("class", "equal"))
    attach_detr(model, Options("class", "class:white=3"))
    expected, same, found = (gradients(one, labels) for one in (plain, equal, model))
    for name, gradient in expected[1].items():
        assert torch.equal(same[1][name], gradient)
    for name in ("outputs_coord", "enc_topk_bboxes"):  # without an object there is no such loss
        torch.testing.assert_close(found[1][name], 3 * expected[1][name])


def test_groups_are_named_by_the_model() -> None:
    kind = "RTDetrForObjectDetection"
    names = {0: "N/A", 1: "cat", 2: "N/A"}
    attached = attach_detr(predictions(kind, id2label=names), Options())
    assert attached["queries"].names == ("N/A 0", "cat", "N/A 2")
    given = Options("size*class", classes=["a", "b", "c"])
    assert attach_detr(predictions(kind), given)["queries"].names[:3] == (
        "small a", "small b", "small c",
    )  # fmt: skip


def test_evaluation_is_left_alone() -> None:
    model = predictions("RTDetrForObjectDetection")
    attached = attach_detr(model, Options("class", "class:red=5"))
    with torch.no_grad():
        model(labels=labels_of())
    assert attached["queries"].calls == 0
    model.eval()(labels=labels_of())
    assert attached["queries"].calls == 0
    model.train()(labels=labels_of())
    assert attached["queries"].calls == 1


def state_of(model: Any) -> tuple[Any, ...]:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return set(vars(model)), model.loss_function, list(model.state_dict()), hooks


def test_what_cannot_work_is_refused_and_left_alone() -> None:
    kind = "RTDetrForObjectDetection"
    twice, own, masks = (predictions(kind) for _ in range(3))
    attach_detr(twice, Options())
    own.loss_function = lambda **named: None
    masks.loss_function = loss_for_object_detection.ForSegmentationLoss
    for model, options, reason in (
        (predictions(kind), Options("level"), "belong to no level of a pyramid; choose 'class'"),
        (predictions(kind), Options("level-positives"), "belong to no level of a pyramid"),
        (predictions(kind), Options(scheme="class:cat=2"), "no group cat; there are: red, white"),
        (predictions(kind), Options(classes=["a"]), "names 1 classes, the model has 3"),
        (twice, Options(), "has weights already; detach it first"),
        (own, Options(), "is not transformers' own"),
        (masks, Options(), "ForSegmentationLoss, .* is none that can be weighed"),
        (nn.Linear(1, 1), Options(), "the loss function of Linear"),
    ):
        before = None if isinstance(model, nn.Linear) else state_of(model)
        with pytest.raises(AttachError, match=reason):
            attach_detr(model, options)
        assert before is None or state_of(model) == before


def test_detach_restores_the_model() -> None:
    data, plain, model = batch((2, 1)), make("RTDetr"), make("RTDetr")
    before = state_of(model)
    sw.attach(model, "class", sw.RandomWeights(), interval=1)
    step(model, data)
    saved = model.state_dict()
    twin = copy.deepcopy(model)
    step(model, data)
    assert [one.scalewise["queries"].calls for one in (model, twin)] == [2, 1]
    for one in (model, twin):
        sw.detach(one)
        assert state_of(one) == before
        for mine, own in zip(step(one, data), step(plain, data), strict=True):
            assert all(torch.equal(mine[key], own[key]) for key in own)
    assert any(key.startswith(f"{NAME}.") for key in saved)
    model.load_state_dict(saved)


def test_a_loss_function_of_before_comes_back() -> None:
    model = predictions("RTDetrForObjectDetection")
    model.loss_function = theirs = model.loss_function
    sw.attach(model)
    sw.detach(model)
    assert vars(model)["_loss_function"] is theirs


def test_a_saved_model_loads_without_weights(tmp_path: Path) -> None:
    model = make("Detr")
    sw.attach(model, "class", interval=1)
    step(model, batch((2, 1)))
    model.save_pretrained(tmp_path)
    plain = transformers.DetrForObjectDetection.from_pretrained(tmp_path).train()
    assert all(
        torch.equal(p, dict(model.named_parameters())[n]) for n, p in plain.named_parameters()
    )
    assert not any(key.startswith(NAME) for key in plain.state_dict())
