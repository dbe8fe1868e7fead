"""Detectors of transformers: attaching to them, what is refused, and detaching."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checks
import pytest
import torch
from torch import nn

pytest.importorskip("transformers", minversion="5.24")

from detr_models import (
    EDGES,
    FAMILIES,
    SIDES,
    Reference,
    batch,
    loss_for_object_detection,
    make,
    match,
    step,
)
from detr_predictions import draw_weights, gradients, labels_of, predictions, seen

import scalewise as sw
from scalewise.integrations.attached import NAME
from scalewise.integrations.detr import attach_detr
from scalewise.integrations.loops import LoopError
from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.transformers import log_groups

trace: Any = torch.jit.trace


def factor(kind: str, options: Options, labels: Any, **others: Any) -> dict[str, float]:
    """Factor on the gradients of the query matched to each "image object"."""
    plain, model = predictions(kind), predictions(kind)
    attach_detr(model, options)
    for one in (plain, model):
        one(labels=labels, **others).loss.backward()
    given, found = seen(plain, labels), {}
    main = {n: given[n] for n in ("logits", "pred_boxes")}
    ratio = model.found["pred_boxes"].grad / plain.found["pred_boxes"].grad  # NaN: no match
    for image, (queries, objects) in enumerate(match(plain.config, main, labels)):
        for query, at in zip(queries.tolist(), objects.tolist(), strict=True):
            found[f"{image} {at}"] = round(float(ratio[image, query].nanmean()), 4)
    return found


def test_sizes_are_those_of_the_original_image() -> None:
    """Images of 200 x 300 pixels, shown as 64 x 64, or with one third of padding on the right."""
    kind, options = "DetrForObjectDetection", Options("size", "size:small=3", size_edges=EDGES)
    expected = {"0 0": 3.0, "0 1": 1.0, "0 2": 1.0, "1 0": 3.0}
    labels = labels_of()
    assert factor(kind, options, labels) == expected
    for one in labels:  # as image processors pad
        one["boxes"][:, [0, 2]] *= 2 / 3
    mask = torch.zeros(2, 64, 96, dtype=torch.int64)
    mask[:, :, :64] = 1
    for one in labels:
        one["size"] = torch.tensor([64, 96])
        one["boxes"][1:2, 2:] *= (EDGES[0] + 1) / SIDES[1]  # the medium one, if there is one
    assert factor(kind, options, labels, pixel_mask=mask) == expected
    narrow = factor(kind, options, labels)  # without a mask, padding is unknown
    assert narrow["0 1"] == 3.0
    for one in labels:
        del one["orig_size"]
    assert set(factor(kind, options, labels).values()) == {3.0}  # sizes in 64 x 96 pixels
    for one in labels:
        del one["size"]
    with pytest.raises(AttachError, match="each entry of labels must hold orig_size or size"):
        factor(kind, options, labels)
    by_class = Options("class", "class:red=3")
    assert factor(kind, by_class, labels) == {  # needs no sizes
        f"{image} {at}": 1.0 if label else 3.0
        for image, one in enumerate(labels)
        for at, label in enumerate(one["class_labels"].tolist())
    }


def test_the_dense_match_of_deimv2_is_weighed() -> None:
    """Its box losses use more queries than the matcher finds."""
    kind, labels = "Deimv2ForObjectDetection", labels_of()
    for one in labels:
        one["class_labels"].fill_(1)
    plain, equal, model = (predictions(kind, use_dense_one_to_one=True) for _ in range(3))
    attach_detr(equal, Options("class", "equal"))
    attach_detr(model, Options("class", "class:white=3"))
    expected, same, found = (gradients(one, labels) for one in (plain, equal, model))
    for name, gradient in expected[1].items():
        assert torch.equal(same[1][name], gradient)
    for name in ("outputs_coord", "enc_topk_bboxes"):  # only queries with an object have box losses
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


@pytest.mark.filterwarnings("ignore")
def test_traced_it_is_the_plain_model_and_moved_it_takes_the_balancer_along() -> None:
    plain, model = make("Detr").eval(), make("Detr")
    attach_detr(model, Options("class", "rlo"))
    images = torch.rand(1, 3, 64, 64)
    traced = trace(model.eval(), images, strict=False, check_trace=False)
    assert torch.equal(traced(images)["logits"], plain(images).logits)
    sw.detach(model)
    bare = trace(model, images, strict=False, check_trace=False)
    assert not [key for key in bare.state_dict() if NAME in key]
    attached = attach_detr(model, Options("class", "rlo"))
    model.double()
    assert attached.weights["queries"].dtype == torch.float32
    model.to("meta")
    assert {buffer.device.type for buffer in attached.buffers()} == {"meta"}


def test_evaluation_is_left_alone() -> None:
    kind, labels = "RTDetrForObjectDetection", labels_of()
    plain, model = predictions(kind), predictions(kind)
    attached = attach_detr(model, Options("class", "class:red=5"))
    with torch.no_grad():
        model(labels=labels)
    for one in (plain, model):
        one.eval()
    assert same(gradients(model, labels), gradients(plain, labels))
    assert attached["queries"].calls == 0
    assert not attached.group_losses
    for one in (plain, model):
        one.train()
    assert not same(gradients(model, labels), gradients(plain, labels))
    assert attached["queries"].calls == 1


def same(found: Any, expected: Any) -> bool:
    """Whether two losses and their gradients by name are equal."""
    return torch.equal(found[0], expected[0]) and all(
        torch.equal(found[1][name], own) for name, own in expected[1].items()
    )


LAST, LAYERS = {"logits", "pred_boxes"}, {"outputs_class", "outputs_coord"}
PROPOSALS = {"enc_topk_logits", "enc_topk_bboxes"}
HANDED = {
    "Detr": LAST | LAYERS,
    "ConditionalDetr": LAST | LAYERS,
    "DeformableDetr": LAST | LAYERS,
    "RTDetr": LAST | LAYERS | PROPOSALS,
    "RTDetrV2": LAST | LAYERS | PROPOSALS,
    "DFine": LAST | LAYERS | PROPOSALS | {"predicted_corners"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_have_losses_of_all_that_is_weighed(family: str) -> None:
    """All layers, encoder proposals and denoising queries have a loss, so the matrix tests them."""
    model, given = make(family), {}
    theirs = model.loss_function
    names = list(inspect.signature(theirs).parameters)

    def note(*inputs: Any, **named: Any) -> Any:
        given.update(dict(zip(names, inputs, strict=False)) | named)
        for value in given.values():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                value.retain_grad()
        return theirs(*inputs, **named)

    model.loss_function = note
    step(model, batch((3, 1)))
    grown = {n for n, v in given.items() if getattr(v, "grad", None) is not None and v.grad.any()}
    assert grown == HANDED[family]
    noisy = given.get("denoising_meta_values")
    assert (noisy is not None) == (HANDED[family] >= PROPOSALS)
    assert noisy is None or given["outputs_class"].grad[:, :, : noisy["dn_num_split"][0]].any()


def test_deformable_detr_of_two_stages() -> None:
    """The decoder's layers are weighed; transformers has no loss for the encoder's proposals."""
    data = batch((3, 1))
    stages = {"two_stage": True, "two_stage_num_proposals": 9}
    plain, model = (make("DeformableDetr", **stages) for _ in range(2))
    attached = attach_detr(model, Options("class", "equal", size_edges=EDGES))
    weights = draw_weights(attached["queries"])
    plain.loss_function = Reference(plain.loss_function, weights, "class")
    found, expected = step(model, data)[1], step(plain, data)[1]
    checks.close(found, expected, "gradients")
    without = {n for n, _ in model.named_parameters()} - set(found)
    proposing = len(model.class_embed) - 1  # the last head scores the encoder's proposals
    assert any(name.endswith(f"class_embed.{proposing}.weight") for name in without)
    assert any(name.endswith(f"class_embed.{proposing - 1}.weight") for name in found)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("family", ["Detr", "DeformableDetr"])  # other families cannot do it
def test_gradient_checkpointing_changes_nothing(family: str) -> None:
    found = []
    for checkpointed in (False, True):
        model = make(family)
        if checkpointed:
            model.gradient_checkpointing_enable()
        attached = attach_detr(model, Options("class", "class:red=3"))
        found.append(step(model, batch((3, 1)))[1])
        assert attached["queries"].calls == 1
    checks.close(found[1], found[0], "gradients")


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
        (masks, Options(), "ForSegmentationLoss, .* cannot be weighed"),
        (nn.Linear(1, 1), Options(), "the loss function of Linear"),
    ):
        before = None if isinstance(model, nn.Linear) else state_of(model)
        with pytest.raises(AttachError, match=reason):
            attach_detr(model, options)
        assert before is None or state_of(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_detach_restores_the_model(family: str) -> None:
    data, plain, model = batch((2, 1)), make(family), make(family)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_without_weights(family: str, tmp_path: Path) -> None:
    model = make(family)
    sw.attach(model, "class", interval=1)
    step(model, batch((2, 1)))
    model.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path).train()
    assert plain.num_parameters() == model.num_parameters()
    assert all(
        torch.equal(p, dict(model.named_parameters())[n]) for n, p in plain.named_parameters()
    )
    assert not any(key.startswith(NAME) for key in plain.state_dict())


@pytest.mark.parametrize("elsewhere", ["compute_loss_func", "label_smoother"])
def test_a_loss_from_elsewhere_is_refused(elsewhere: str) -> None:
    model = predictions("RTDetrForObjectDetection")
    sw.attach(model)
    arguments = SimpleNamespace(gradient_accumulation_steps=1, n_gpu=1)
    trainer = SimpleNamespace(model=model, args=arguments, log=print, add_callback=print)
    setattr(trainer, elsewhere, lambda *inputs: 0)
    with pytest.raises(LoopError, match="from RTDetrForObjectDetection, whose weights would do"):
        log_groups(trainer)
    assert trainer.log is print
    delattr(trainer, elsewhere)
    log_groups(trainer)
    assert trainer.log is not print


def test_a_compiled_loss_is_counted() -> None:
    model, labels = predictions("DetrForObjectDetection"), labels_of()
    attached = attach_detr(model, Options("class", "class:red=3"))
    given = seen(predictions("DetrForObjectDetection"), labels) | dict(model.found)

    @partial(torch.compile, backend="eager")
    def total() -> torch.Tensor:
        loss: torch.Tensor = model.loss_function(**given)[0]
        return loss * 1

    torch.autograd.backward(total())
    compiled = {name: one.grad.clone() for name, one in model.found.items() if one.grad is not None}
    assert attached["queries"].calls == 1
    checks.close(compiled, gradients(model, labels)[1], "gradients")
