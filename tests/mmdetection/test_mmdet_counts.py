"""The number of positives and the losses that the balancer gets from MMDetection's heads."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou

pytest.importorskip(
    "mmdet.registry", reason="MMDetection needs its own environment: make test-mmdet"
)

from mmdet_configs import FAMILIES
from mmdet_models import attach, batch, kinds, make, step
from mmdet_one_stage import CLASSES
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

from scalewise.integrations.mmengine_heads import defining

pytestmark = pytest.mark.filterwarnings("ignore")

DENSE = [f for f in FAMILIES if "level-positives" in kinds(f) and not f.endswith("R-CNN")]


def _noting(factors: list[float], own: Tensor) -> Tensor:
    factors.append(float(own))
    return own


@pytest.mark.parametrize("family", [*DENSE, "TOOD, first epochs"])
def test_positives_add_up_to_what_divides_the_classes_loss(family: str, monkeypatch: Any) -> None:
    """The sum is the head's normaliser before it is limited to values above 0."""
    model = make(family.partition(",")[0])
    head = model.bbox_head
    factors: list[float] = []
    if "," in family:
        head.initial_epoch = 4
    attached = attach(model, "equal", by="class")
    module = sys.modules[defining(head, "loss_by_feat").__module__]
    if hasattr(module, "reduce_mean"):  # the first call is for the class loss
        monkeypatch.setattr(module, "reduce_mean", partial(_noting, factors))
    else:
        head.loss_cls.register_forward_pre_hook(
            lambda module, args, named: factors.append(named["avg_factor"]), with_kwargs=True
        )
    data = batch((3, 2))  # some heads count an image without positives as one
    step(model, data)
    images = len(data[1]) if family == "FoveaBox" else 0  # FoveaBox adds them
    positives = attached["dense"].block[0, CLASSES + 1 :]
    assert factors[0] > images
    assert float(positives.sum()) == pytest.approx(factors[0] - images, rel=1e-5)
    soft = family in ("TOOD", "RTMDet")
    assert torch.equal(positives, positives.round()) != soft


@pytest.mark.parametrize("family", ["TOOD", "RTMDet"])
def test_a_positive_with_a_soft_target_counts_as_that(family: str) -> None:
    model, plain = make(family), make(family)
    attached = attach(model, "equal", by="class")
    head, seen = plain.bbox_head, []
    targets = head.get_targets

    def note(*args: Any, **named: Any) -> Any:
        seen.append(targets(*args, **named))
        return seen[-1]

    head.get_targets = note
    for one in (model, plain):
        step(one, batch((3, 2)))
    (_, labels, _, _, metrics, *_), expected = seen[0], torch.zeros(CLASSES)
    anchors = (torch.cat(own, 1).flatten() for own in (labels, metrics))
    for label, metric in zip(*anchors, strict=True):
        if 0 <= label < CLASSES:
            expected[label] += metric
    torch.testing.assert_close(attached["dense"].block[0, CLASSES + 1 :], expected)
    assert expected.sum() > 0


def _positive_rows(family: str) -> tuple[Any, list[int], dict[str, list[Tensor]]]:
    """Losses of a plain head, classes of its positives by level, and inputs of its box losses."""
    plain = make(family)
    head = plain.bbox_head
    labels: list[int] = []
    targets = head.get_targets
    seen: dict[str, list[Tensor]] = {}

    def note(*args: Any, **named: Any) -> Any:
        result = targets(*args, **named)
        for level in result[1 if family == "GFL" else 0]:
            labels.extend(label for label in level.flatten().tolist() if label < CLASSES)
        return result

    def keep(key: str, module: Any, args: Any) -> None:
        seen.setdefault(key, []).append(torch.stack(args) if key != "loss_dfl" else args)

    head.get_targets = note
    for key in ("loss_bbox", "loss_dfl", "loss_bbox_refine"):
        if hasattr(head, key):
            getattr(head, key).register_forward_pre_hook(partial(keep, key))
    losses = step(plain, batch((3, 2)))[0]
    return losses, labels, seen


@pytest.mark.parametrize("family", ["GFL", "VFNet"])
def test_statistics_do_not_have_the_head_s_doubts_in_them(family: str) -> None:
    """The head's weights of boxes by quality are not in the statistics."""
    losses, labels, seen = _positive_rows(family)
    attached = attach(model := make(family), "equal", by="class")
    step(model, batch((3, 2)))
    expected = attached.group_losses["loss_cls"][:CLASSES].clone()
    for key, name in (("loss_bbox",) * 2, ("loss_dfl",) * 2, ("loss_bbox_refine", "loss_bbox_rf")):
        if key not in seen:
            continue
        if key == "loss_dfl":
            values = []
            for logits, wanted in seen[key]:
                chances = logits.softmax(-1)
                for row, place in zip(chances, wanted.tolist(), strict=True):
                    low = int(place)
                    near = (low + 1 - place) * row[low].log() + (place - low) * row[low + 1].log()
                    values.append(-near)
            rows = torch.stack(values).view(-1, 4).sum(1)
        else:
            pairs = torch.cat(seen[key], 1).detach()
            rows = torch.stack(
                [
                    1 - generalized_box_iou(a[None], b[None])[0, 0]
                    for a, b in zip(*pairs, strict=True)
                ]
            )
        own = torch.zeros(CLASSES)
        for label, row in zip(labels, rows.detach(), strict=True):
            own[label] += row
        expected += own * losses[name] / own.sum()
    balancer = attached["dense"]
    torch.testing.assert_close(balancer.last_losses, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(attached.group_totals("dense"), expected, rtol=1e-3)
    everything = sum(float(own.sum()) for own in attached.group_losses.values())
    background = attached.group_losses["loss_cls"][-1]
    assert float(balancer.last_losses.sum() + background) == pytest.approx(everything, rel=1e-5)


@pytest.mark.parametrize("family", ["GFL", "VFNet", "YOLOX", "RTMDet", "ATSS"])
def test_a_class_that_is_not_found_costs_more_a_positive(family: str) -> None:
    """After fitting to one class, an object of a second class has a larger loss per positive."""
    model = make(family)
    head, (images, samples) = model.bbox_head, batch((1,))
    MessageHub.get_current_instance().update_info("epoch", 0)
    maps = [
        [one.detach().clone().requires_grad_() for one in kind]
        if isinstance(kind[0], Tensor)
        else kind
        for kind in head(model.extract_feat(images))
    ]
    boxes = torch.tensor([[4.0, 4, 24, 24], [36, 36, 58, 56]])

    def loss(objects: int) -> Tensor:
        own = InstanceData(bboxes=boxes[:objects], labels=torch.arange(objects))
        found = head.loss_by_feat(*maps, [own], [samples[0].metainfo], None)
        total: Tensor = model.parse_losses(found)[0]
        return total

    optimizer = torch.optim.Adam([one for kind in maps for one in kind], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(loss(1))
        optimizer.step()
    attached = attach(model, "equal", by="class")
    loss(2)
    balancer = attached["dense"]
    found, unknown = (balancer.last_losses / balancer.block[0, CLASSES + 1 :])[:2].tolist()
    assert unknown > 1.5 * found
