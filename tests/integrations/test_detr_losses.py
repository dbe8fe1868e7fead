"""Every loss function of transformers' detectors: gradients and statistics by query."""

from __future__ import annotations

from typing import Any

import checks
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

pytest.importorskip("transformers", minversion="5.24")

from detr_models import EDGES, NAMES, Reference, match
from detr_predictions import COUNTS, SETTINGS, draw_weights, gradients, labels_of, predictions, seen

from scalewise.integrations.detr import LOSSES, attach_detr
from scalewise.integrations.options import Options

SOFT = list(SETTINGS)[2:]  # class targets that shrink with the overlap
KINDS = ("class", "size", "size*class")
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
        assert torch.equal(found[0], expected[0])  # the loss is reported without weights
        checks.close(found[1], reference[1], f"gradients of {counts}")
        changed = any(not torch.equal(found[1][n], g) for n, g in expected[1].items())
        assert changed == (sum(counts) > 0)


@every
def test_a_query_has_gradients_of_its_own(kind: str) -> None:
    """Gradients of a query do not depend on other queries, so they can be weighed by query."""
    model, labels, own = predictions(kind), labels_of(), 1
    reference = Reference(model.loss_function, torch.tensor([2.0, 3.0, 4.0]), "class")
    before, matched = gradients(model, labels)[1], reference.factors(seen(model, labels))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.found.values():
            noise = 0.001 * torch.randn(parameter.shape, generator=draw)
            noise.transpose(0, -2)[own] = 0  # this query stays, in every image and layer
            parameter += noise
    after = gradients(model, labels)[1]
    again = reference.factors(seen(model, labels))
    assert all(torch.equal(matched[name], other) for name, other in again.items())
    for name, gradient in after.items():
        mine, its = (g.transpose(0, -2)[own] for g in (gradient, before[name]))
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)
        assert not torch.equal(gradient, before[name])


@every
def test_statistics_are_the_criterions_own_terms(kind: str) -> None:
    """The criterion is called for one query at a time."""
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


@every
def test_positives_add_up_to_the_criterions_normaliser(kind: str) -> None:
    """All criteria divide by the number of objects, so a matched query counts as one."""
    model, normalisers = predictions(kind), []

    def observe(criterion: Any, inputs: Any) -> None:
        if hasattr(criterion, "get_loss"):
            theirs = criterion.get_loss

            def note(*others: Any) -> Any:
                normalisers.append(others[-1])
                return theirs(*others)

            criterion.get_loss = note

    attached = attach_detr(model, Options("class", "equal"))
    handle = register_module_forward_pre_hook(observe)
    model(labels=labels_of())
    handle.remove()
    positives = attached["queries"].block[0, len(NAMES) + 1 :]
    assert float(positives.sum()) == normalisers[0]


@pytest.mark.parametrize("kind", SOFT)
def test_a_class_that_is_not_found_costs_more_a_positive(kind: str) -> None:
    """After fitting to one class, an object of a second class has a larger loss per positive.

    This holds although the class loss of a query shrinks with its overlap: its box loss does not.
    """
    model = predictions(kind)
    both = {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3] * 4, [0.8] * 4])}
    both["boxes"][:, 2:] = 0.2
    one = {key: value[:1] for key, value in both.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        model(labels=[one, one]).loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, boxes in model.found.items():
                if any(part in name for part in ("coord", "boxes", "reference")):
                    boxes.clamp_(0.05, 0.95)
    attached = attach_detr(model, Options("class", "equal"))
    model(labels=[both, both])
    balancer = attached["queries"]
    found, unknown = (balancer.last_losses / balancer.block[0, len(NAMES) + 1 :])[:2].tolist()
    assert unknown > 1.5 * found
