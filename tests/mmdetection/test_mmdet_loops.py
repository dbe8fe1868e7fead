"""Evaluation, copies and unused losses in loops with attached models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip(
    "mmdet.registry", reason="MMDetection needs its own environment: make test-mmdet"
)

from mmdet_models import attach, batch, make, step

KINDS = [("FCOS", "class"), ("RetinaNet", "level"), ("TOOD", "class"), ("Mask R-CNN", "size")]
pytestmark = pytest.mark.filterwarnings("ignore")


def _seen(attached: Any) -> list[Any]:
    return [(b.calls, b.block.clone(), b.weights.clone()) for b in attached.balancers.values()]


def _same(one: Any, other: Any) -> bool:
    return all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("family", "by"), KINDS)
def test_losses_of_evaluation_are_plain_and_not_recorded(family: str, by: str) -> None:
    data, plain, model = batch((3, 0, 2)), make(family), make(family)
    attached = attach(model, "random", by=by, interval=1)
    step(model, data)
    assert all((b.weights != 1).any() for b in attached.balancers.values())
    before = _seen(attached)
    step(plain, data)
    for one in (model, plain):
        one.eval()
    for mine, own in zip(step(model, data), step(plain, data), strict=True):
        assert all(torch.equal(mine[name], own[name]) for name in own)
    for one in (model, plain):
        one.train()
    with torch.no_grad():
        torch.manual_seed(7)
        mine = model.parse_losses(model(*data, mode="loss"))[1]
        torch.manual_seed(7)
        own = plain.parse_losses(plain(*data, mode="loss"))[1]
    assert all(torch.equal(mine[name], own[name]) for name in own)
    assert _same(_seen(attached), before)
    step(model, data)
    assert all(b.calls == 2 for b in attached.balancers.values())


@pytest.mark.parametrize(("family", "by"), KINDS)
def test_a_copy_has_weights_of_its_own(family: str, by: str) -> None:
    data, model = batch((3, 2)), make(family)
    attached = attach(model, "random", by=by, interval=1)
    step(model, data)
    twin = copy.deepcopy(model)
    expected = step(make(family), data)
    before = _seen(attached)
    found = step(twin, data)
    assert _same(_seen(attached), before)  # the copy used its own balancer
    again = step(model, data)
    for mine, own in zip(found, again, strict=True):
        assert all(torch.equal(mine[name], own[name]) for name in own)
    assert not _same(_seen(attached), before)
    twin.parse_losses.func.__self__.detach()
    for mine, own in zip(step(twin, data), expected, strict=True):
        assert all(torch.equal(mine[name], own[name]) for name in own)
    assert "parse_losses" in vars(model)


@pytest.mark.parametrize(("family", "by"), KINDS)
def test_losses_that_are_never_added_up_here_are_told_of(family: str, by: str) -> None:
    data, model = batch((3, 2)), make(family)
    attached = attach(model, "avw", by=by)
    step(model, data)
    with torch.no_grad():
        model(*data, mode="loss")
    model(*data, mode="loss")
    with pytest.warns(UserWarning, match="that its parse_losses has not seen"):
        model(*data, mode="loss")
    assert all(b.calls == 1 for b in attached.balancers.values())
