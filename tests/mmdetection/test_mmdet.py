"""Losses of groups in attached detectors, compared with MMDetection's own losses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip(
    "mmdet.registry", reason="MMDetection needs its own environment: make test-mmdet"
)

from checks import close
from mmdet_configs import FAMILIES, LISTS
from mmdet_models import SUBJECTS, attach, batch, kinds, make, step
from mmdet_reference import groups_of_anchors, spread

pytestmark = pytest.mark.filterwarnings("ignore")


def _each_kind() -> list[Any]:
    return [pytest.param(f, by, id=f"{f}-{by}") for f in FAMILIES for by in kinds(f)]


@pytest.mark.parametrize(("family", "by"), _each_kind())
def test_the_losses_of_the_groups_add_up_to_the_framework_s(family: str, by: str) -> None:
    data = batch((3, 2))
    model = make(family)
    attached = attach(model, "equal", by=by)
    draw = torch.Generator().manual_seed(0)
    for balancer in attached.balancers.values():
        balancer.weights.copy_(0.2 + torch.rand(balancer.num_groups, generator=draw))
    weighted = step(model, data)[0]
    own = step(make(family), data)[0]
    found = attached.group_losses
    names = [key for key in own if "loss" in key and key != "loss"]
    if family.endswith("R-CNN"):
        names = [key for key in names if ("rpn" if "rpn" in key else "roi") in attached.balancers]
    assert sorted(found) == sorted(names)
    for name, balancer in attached.balancers.items():
        weights = (
            balancer.weights if by == "level" else torch.cat([balancer.weights, torch.ones(1)])
        )
        for key in attached.names[name]:
            torch.testing.assert_close(found[key].sum(), own[key])
            torch.testing.assert_close((weights * found[key]).sum(), weighted[key])


@pytest.mark.parametrize("family", [f for f in LISTS if "level-positives" in kinds(f)])
def test_losses_of_positives_by_level_are_the_framework_s_lists(family: str) -> None:
    whole, positives = make(family), make(family)
    expected, found = attach(whole, "equal"), attach(positives, "equal", by="level-positives")
    for model in (whole, positives):
        step(model, batch((3, 2)))
    assert expected.group_losses.keys() == found.group_losses.keys()
    for key, levels in expected.group_losses.items():
        groups = found.group_losses[key]
        if "cls" in key:
            assert (groups[:-1] <= levels * 1.0001).all()
            assert groups[-1] > 0
        else:
            torch.testing.assert_close(groups[:-1], levels)
            assert groups[-1] == 0


def _shifted(plain: Any, groups: list[list[Tensor]], group: int, *args: Any) -> Any:
    """A head's loss after changing the predictions of one group's anchors."""
    kinds_of_maps = [part for part in args if isinstance(part[0], Tensor)]
    moved = [
        [one + 0.1 * spread(own == group, one) for one, own in zip(maps, levels, strict=True)]
        for maps, levels in zip(kinds_of_maps, groups, strict=False)
    ]
    return plain(*moved, *args[len(moved) :])


@pytest.mark.parametrize(
    ("family", "by"),
    [
        ("RetinaNet", "class"),
        ("RetinaNet", "size"),
        ("ATSS", "size*class"),
        ("FCOS", "size"),
        ("FCOS", "level"),
        ("FoveaBox", "class"),
    ],
)
def test_the_loss_of_a_group_is_of_its_own_anchors(family: str, by: str) -> None:
    """Changing one group's predictions changes only its loss (heads that assign by anchors)."""
    data = batch((3, 2))
    plain = make(family)
    groups: list[Any] = []
    none = {"size*class": 9}.get(by, 3)

    def note(loss: Any, *args: Any) -> Any:
        groups.append(groups_of_anchors(plain.bbox_head, loss, args, none, by))
        return loss(*args)

    plain.bbox_head.loss_by_feat = partial(note, plain.bbox_head.loss_by_feat)
    step(plain, data)
    attached = attach(plain_model := make(family), "equal", by=by)
    before_total = step(plain_model, data)[0]["loss"]
    before = attached.group_totals("dense")
    for group in range(none):
        model = make(family)
        model.bbox_head.loss_by_feat = partial(
            _shifted, model.bbox_head.loss_by_feat, groups[0], group
        )
        moved = attach(model, "equal", by=by)
        total = step(model, data)[0]["loss"]
        change = moved.group_totals("dense") - before
        expected = torch.zeros(none)
        expected[group] = total - before_total
        torch.testing.assert_close(change, expected, rtol=1e-3, atol=1e-5)
        if any((own == group).any() for own in groups[0][0]):
            assert change[group] != 0


@pytest.mark.parametrize("by", ["class", "level"])
def test_yolox_losses_follow_the_order_of_its_rows(monkeypatch: Any, by: str) -> None:
    model = make("YOLOX")
    attached = attach(model, "equal", by=by)
    images, samples = batch((3, 0, 2))
    step(model, (images, samples))
    plain = make("YOLOX")
    head = plain.bbox_head
    seen: list[Any] = []
    outputs: list[Any] = []
    targets = head._get_targets_single

    def noted(*args: Any, **named: Any) -> Any:
        seen.append(targets(*args, **named))
        return seen[-1]

    monkeypatch.setattr(head, "_get_targets_single", noted)
    head.register_forward_hook(lambda m, i, output: outputs.append(output))
    step(plain, (images, samples))
    scores, _, objects = outputs[0]
    counts = [o.shape[-2] * o.shape[-1] for o in objects]
    levels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    normaliser = sum(int(own[0].sum()) for own in seen)
    expected = torch.zeros(2, 4)
    for image, (mask, classes, wanted, *_) in enumerate(seen):
        logits = torch.cat([o[image].flatten() for o in objects])
        rows = torch.cat([s[image].flatten(1) for s in scores], 1).T[mask]
        group = levels.clone()
        if by == "class":
            group[:] = 3
            group[mask] = classes.argmax(1)  # the target is the IoU, at the class
        for anchor, own in enumerate(
            F.binary_cross_entropy_with_logits(logits, wanted[:, 0], reduction="none")
        ):
            expected[0, group[anchor]] += own.detach() / normaliser
        losses = F.binary_cross_entropy_with_logits(rows, classes, reduction="none").sum(1)
        for own_group, own in zip(group[mask], losses, strict=True):
            expected[1, own_group] += own.detach() / normaliser
    for row, name in enumerate(("loss_obj", "loss_cls")):
        found = attached.group_losses[name]
        torch.testing.assert_close(found, expected[row, : len(found)])


def test_sizes_are_of_the_original_image() -> None:
    images, samples = batch((8, 8))
    samples[1].set_metainfo({"scale_factor": None})
    for family in ("RetinaNet", "FCOS", "YOLOX", "Faster R-CNN"):
        model = make(family)
        attached = attach(model, "equal", by="size")
        seen = []
        for scale in ((1.0, 1.0), (0.01, 0.01), (100.0, 100.0)):
            samples[0].set_metainfo({"scale_factor": scale})
            step(model, (images, samples))
            name = "roi" if family == "Faster R-CNN" else "dense"
            balancer = attached[name]
            seen.append(balancer.block[balancer.calls - 1, 4:])
        own, larger, smaller = seen
        assert own.sum() == larger.sum() == smaller.sum()
        assert larger[2] > own[2]
        assert larger[0] < own[0]
        assert smaller[0] > own[0]
        assert smaller[2] < own[2]


@pytest.mark.parametrize(
    ("family", "attribute", "value", "scheme"),
    [
        ("TOOD", "initial_epoch", 4, "class:class1=3"),  # another assigner before that epoch
        ("FCOS", "norm_on_bbox", True, "size:medium=3"),
    ],
)
def test_a_head_s_own_settings(family: str, attribute: str, value: Any, scheme: str) -> None:
    data = batch((3, 2))
    own, plain, weighted = make(family), make(family), make(family)
    for model in (own, plain, weighted):
        setattr(model.bbox_head, attribute, value)
    attached = attach(weighted, scheme, by=None)
    SUBJECTS[family].weigh(plain, attached.weights, scheme.partition(":")[0])
    (found, gradients), (_, expected) = step(weighted, data), step(plain, data)
    close(gradients, expected, family)
    losses = step(own, data)[0]
    for key in ("loss_cls", "loss_bbox"):
        torch.testing.assert_close(attached.group_losses[key].sum(), losses[key])
        assert found[key] > losses[key]


def test_samples_may_be_in_any_order() -> None:
    def shuffled(plain: Any, *args: Any) -> Any:
        result = plain(*args)
        order = torch.arange(len(result.pos_inds)).flip(0)
        for name in ("inds", "priors", "assigned_gt_inds", "gt_labels", "gt_bboxes", "is_gt"):
            setattr(result, f"pos_{name}", getattr(result, f"pos_{name}")[order])
        return result

    seen = []
    for other in (False, True):
        model = make("RetinaNet")
        sampler = model.bbox_head.sampler
        if other:
            sampler.sample = partial(shuffled, sampler.sample)
        attached = attach(model, "equal", by="size*class")
        step(model, batch((3, 2)))
        seen.append(attached.group_totals("dense"))
        attached.detach()
        assert ("sample" in vars(sampler)) == other
    assert (seen[0] > 0).sum() > 2
    torch.testing.assert_close(seen[0], seen[1])
