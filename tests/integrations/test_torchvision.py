"""Attached torchvision models against torchvision's own losses and gradients."""

from __future__ import annotations

import copy
import sys
import warnings

import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision_models import FAMILIES, Pyramid, batch, make, step

import scalewise as sw
from scalewise.integrations.attached import AttachError
from scalewise.integrations.torchvision import attach, detach


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_move_and_detections_stay_the_framework(family: str) -> None:
    model = make(family)
    balancer = attach(model, "avw", interval=2)
    for seed in range(5):
        step(model, batch((3, 2), seed))
    for name in balancer.weights:
        assert balancer[name].intervals == 2
    assert any((w != 1).any() for w in balancer.weights.values())
    images, _ = batch((1, 1))
    plain = make(family)
    detach(model)
    plain.load_state_dict(model.state_dict())
    one, other = model.eval()(images), plain.eval()(images)
    assert [list(d) for d in one] == [list(d) for d in other]
    for mine, own in zip(one, other, strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("family", FAMILIES)
def test_detach_restores_the_model(family: str) -> None:
    data = batch((2, 1))
    plain, model = make(family), make(family)
    attach(model, sw.RandomWeights(), interval=1)
    step(model, data)
    detach(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        assert vars(module).keys() == vars(other).keys()
        assert len(module._forward_hooks) == len(other._forward_hooks)
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks)
    for mine, own in zip(step(model, data), step(plain, data), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


def test_checkpoints_with_and_without_weights_are_exchanged() -> None:
    plain, attached = make("fcos", seed=1), make("fcos", seed=2)
    attach(attached, "avw")
    with pytest.warns(UserWarning, match="saved without level weights"):
        attached.load_state_dict(plain.state_dict())
    saved = attached.state_dict()
    assert any(key.startswith("scalewise.") for key in saved)
    detach(attached)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attached.load_state_dict(saved)
        detach(plain)  # never attached: it only learns to load such a checkpoint
        plain.load_state_dict(saved)


def test_a_copy_has_a_state_of_its_own() -> None:
    model = make("faster_rcnn")
    attach(model, "avw", interval=2)
    twin = copy.deepcopy(model)
    data = batch((2, 1))
    for _ in range(3):
        step(model, data)
    assert model.scalewise["rpn"].intervals == 1
    assert twin.scalewise["rpn"].intervals == 0
    step(twin, data)
    assert twin.scalewise.level_losses.keys() == model.scalewise.level_losses.keys()


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    subclass = type("Own", (RetinaNet,), {"compute_loss": lambda self, *args: {}})
    own = subclass(Pyramid(3, False), 4, anchor_generator=make("retinanet").anchor_generator)
    wrapped = make("fcos")
    wrapped.head.compute_loss = lambda *args: {}
    twice = make("ssd")
    attach(twice, "avw")
    for model, reason in (
        (own, r"Own.compute_loss is not torchvision's RetinaNet.compute_loss"),
        (wrapped, r"FCOSHead.compute_loss is not torchvision's"),
        (twice, "has level weights already"),
        (nn.Linear(1, 1), "Linear is none of torchvision's"),
    ):
        before = vars(model).copy()
        with pytest.raises(AttachError, match=reason):
            attach(model, "avw")
        assert vars(model) == before
    with pytest.raises(AttachError, match="trains weights by back-propagation"):
        attach(make("fcos"), "uncertainty")


def test_without_torchvision_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "scalewise.integrations.torchvision")
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", None)
    with pytest.raises(ImportError, match=r"scalewise\.attach needs the package torchvision: pip"):
        _ = sw.attach
