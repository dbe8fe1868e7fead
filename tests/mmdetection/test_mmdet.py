"""Attached detectors against MMDetection's own losses and gradients."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip(
    "mmdet.registry", reason="MMDetection has an environment of its own: make test-mmdet"
)

from mmdet_configs import CLASSES, FAMILIES, LISTS
from mmdet_models import (
    SIDE,
    SUBJECTS,
    attach,
    batch,
    groups_of_anchors,
    kinds,
    make,
    spread,
    step,
)

import scalewise as sw
from scalewise.integrations.mmengine import attach_mmdet, detach_mmdet
from scalewise.integrations.options import AttachError, Options

if TYPE_CHECKING:

    class BaseModel(nn.Module):
        parse_losses: Any
else:
    from mmengine.model import BaseModel

pytestmark = pytest.mark.filterwarnings("ignore")


def _close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        scale = float(value.abs().max()) if value.numel() else 0.0
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=2e-6 * (1 + scale), msg=name)


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
    """A head's loss, after the predictions of one group's anchors have been moved."""
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
    """Moving their predictions changes no other group's; these heads assign without predictions."""
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
            group[mask] = classes.argmax(1)  # the overlap stands at the class
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


def test_losses_of_regions_are_those_of_their_classes() -> None:
    model = make("Faster R-CNN")
    attached = attach(model, "equal", by="class")
    data = batch((3, 2))
    step(model, data)
    plain = make("Faster R-CNN")
    head = plain.roi_head.bbox_head
    calls: list[dict[str, Any]] = []

    def note(loss: Any, **named: Any) -> Any:
        calls.append(named)
        return loss(**named)

    head.loss_and_target = partial(note, head.loss_and_target)
    step(plain, data)
    scores, deltas = calls[0]["cls_score"].detach(), calls[0]["bbox_pred"].detach()
    regions = len(scores)
    expected, positives, at = torch.zeros(2, CLASSES + 1), torch.zeros(CLASSES), 0
    for sampled in calls[0]["sampling_results"]:
        wanted = head.bbox_coder.encode(sampled.pos_priors, sampled.pos_gt_bboxes)
        for place in range(len(sampled.priors)):
            is_object = place < len(sampled.pos_priors)
            label = int(sampled.pos_gt_labels[place]) if is_object else CLASSES
            own = F.cross_entropy(scores[at], torch.tensor(label))
            expected[0, label] += own / regions
            if is_object:
                positives[label] += 1
                box = deltas[at, 4 * label : 4 * label + 4]
                expected[1, label] += (box - wanted[place]).abs().sum() / regions
            at += 1
    assert at == regions
    for row, name in enumerate(("loss_cls", "loss_bbox")):
        torch.testing.assert_close(attached.group_losses[name], expected[row])
    balancer = attached["roi"]
    assert torch.equal(balancer.block[0, CLASSES + 1 :], positives)


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
        ("TOOD", "initial_epoch", 4, "class:class1=3"),  # assigns otherwise until then
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
    _close(gradients, expected)
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


def test_weights_are_given_by_the_names_of_the_groups() -> None:
    model = make("RetinaNet")
    model.dataset_meta = {"classes": ("cat", "dog", "bird")}
    attached = attach(model, "class:dog=3", by=None)
    assert attached["dense"].names == ("cat", "dog", "bird")
    step(model, batch((3, 2)))
    assert attached.weights["dense"].tolist() == [1, 3, 1]
    attached.detach()
    with pytest.raises(AttachError, match="no group mouse; there are: cat, dog, bird"):
        attach(model, "class:mouse=2", by="class")
    with pytest.raises(AttachError, match="no group tiny; there are: small, medium, large"):
        attach(model, "size:tiny=2", by="size")
    with pytest.raises(AttachError, match="names 2 classes, the model has 3"):
        attach(model, classes=("a", "b"), by="class")
    assert "parse_losses" not in vars(model)
    assert not {"loss_by_feat", "get_targets"} & vars(model.bbox_head).keys()


def test_two_stages_weigh_what_each_of_them_knows() -> None:
    expected = {"class": ["roi"], "size*class": ["roi"], "size": ["rpn", "roi"]}
    expected |= {"level": ["rpn"], "level-positives": ["rpn"]}
    for by, names in expected.items():
        assert list(attach(make("Faster R-CNN"), by=by).balancers) == names


@pytest.mark.parametrize("by", ["level", "size"])
@pytest.mark.parametrize("family", ["RetinaNet", "FCOS", "YOLOX", "Cascade R-CNN"])
def test_detach_restores_the_model(family: str, by: str) -> None:
    plain, model = make(family), make(family)
    attach(model, sw.RandomWeights(), by=by, interval=1)
    step(model, batch((2, 1)))
    detach_mmdet(model)
    detach_mmdet(plain)
    samplers = [
        [vars(m)["sampler"] for m in o.modules() if "sampler" in vars(m)] for o in (model, plain)
    ]
    for one, other in zip(*samplers, strict=True):
        assert vars(one).keys() == vars(other).keys()
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        # `epoch` and the like are the framework's; what `attach` sets must be gone
        assert {n for n in vars(module) if callable(vars(module)[n])} == {
            n for n in vars(other) if callable(vars(other)[n])
        }
        assert len(module._forward_hooks) == len(other._forward_hooks)
    for mine, own in zip(step(model, batch((2, 1))), step(plain, batch((2, 1))), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


class Named(BaseModel):
    """No detector: three branches with a loss each, and lists of other kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, inputs: Tensor, mode: str = "loss") -> dict[str, Any]:
        squares = [(s * inputs).square() for s in self.scale]
        return {
            "loss_branch": [v.mean() for v in squares],
            "loss_other": [v.abs().mean() for v in squares],
            "loss_images": [self.scale[0] * v for v in inputs],
            "loss_single": self.scale.sum(),
        }


def test_named_lists_of_any_model_are_weighed() -> None:
    model, plain = Named(), Named()
    attached = attach(model, "equal", losses=("loss_branch", "loss_other"))
    inputs = torch.arange(5.0)
    model.parse_losses(model(inputs))  # tells how many levels there are
    attached.weights["named"].copy_(torch.tensor([0.5, 1.0, 1.5]))
    total, log = model.parse_losses(model(inputs))
    total.backward()
    losses = plain(inputs)
    for key in ("loss_branch", "loss_other"):
        losses[key] = [w * v for w, v in zip((0.5, 1.0, 1.5), losses[key], strict=True)]
    expected, expected_log = plain.parse_losses(losses)
    expected.backward()
    torch.testing.assert_close(total, expected)
    _close(log, expected_log)
    torch.testing.assert_close(model.scale.grad, plain.scale.grad)
    assert list(attached.balancers) == ["named"]
    with torch.no_grad():
        assert torch.equal(
            model.parse_losses(model(inputs))[0], plain.parse_losses(plain(inputs))[0]
        )


def _attach_and_parse(model: Any, names: Any, losses: dict[str, Any]) -> None:
    attach(model, "equal", losses=names)
    model.parse_losses(losses)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("loss_brunch",), "loss_brunch is missing.*lists are: loss_branch, loss_other, loss_imag"),
        (("loss_single",), "loss_single is a Tensor, not a list"),
        (("loss_branch", "loss_images"), "the lists differ in length"),
        ("loss_branch", r"write losses=\('loss_branch',\)"),
    ],
)
def test_wrong_names_are_refused(names: Any, reason: str) -> None:
    model = Named()
    losses = model(torch.arange(5.0))
    with pytest.raises(AttachError, match=reason):
        _attach_and_parse(model, names, losses)


def test_named_lists_are_of_levels() -> None:
    with pytest.raises(AttachError, match="whole levels, which by='class' cannot weigh"):
        attach(Named(), by="class", losses=("loss_branch",))
    assert attach_mmdet(Named(), Options(), losses=("loss_branch",)).balancers == {}


def test_lists_that_change_their_length_are_not_per_level() -> None:
    model = Named()
    attach(model, "equal", losses=("loss_images",))
    model.parse_losses(model(torch.arange(5.0)))
    with pytest.raises(AttachError, match="have 4 entries, but there are 5 levels"):
        model.parse_losses(model(torch.arange(4.0)))


def _with(head: Any) -> Any:
    model = Named()
    model.bbox_head = head
    return model


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    from mmdet.models.dense_heads import DETRHead, FCOSHead, FreeAnchorRetinaHead, SSDHead
    from mmdet.models.losses.ghm_loss import GHMC
    from mmdet.models.roi_heads.bbox_heads import BBoxHead

    anchors = {
        "type": "SSDAnchorGenerator",
        "strides": [8, 16],
        "ratios": ([2], [2]),
        "min_sizes": [16, 32],
        "max_sizes": [32, 64],
        "input_size": SIDE,
    }
    ssd = SSDHead(num_classes=3, in_channels=(16, 16), anchor_generator=anchors)
    own = type("OwnHead", (FCOSHead,), {"loss_by_feat": lambda self, *args: {}})
    learned = make("FCOS")
    learned.bbox_head.loss_cls.scale = nn.Parameter(torch.ones(()))
    twice = make("ATSS")
    attach(twice, "avw")
    for model, reason in (
        (_with(ssd), "SSDHead: its lists are per image, and it mines"),
        (_with(DETRHead(num_classes=3, embed_dims=16)), "code of DETRHead is not known"),
        (_with(FreeAnchorRetinaHead(3, 16)), "bags of anchors that run over all levels"),
        (_with(own(3, 16)), "OwnHead: the loss code of OwnHead is not known, so nothing"),
        (learned, "FocalLoss, which computes loss_cls, has parameters"),
        (twice, "has been replaced already"),
        (Named(), "Named has neither bbox_head nor rpn_head"),
        (nn.Linear(1, 1), "Linear has no parse_losses"),
    ):
        before = vars(model).copy()
        with pytest.raises(AttachError, match=reason):
            attach(model, "avw")
        assert vars(model) == before
    learned = make("Faster R-CNN")
    learned.roi_head.bbox_head.loss_cls.scale = nn.Parameter(torch.ones(()))
    counting = make("RetinaNet")
    counting.bbox_head.loss_cls = GHMC()
    other_box = make("Faster R-CNN")
    other_box.roi_head.bbox_head.__class__ = type("OwnBoxHead", (BBoxHead,), {"loss": None})
    proposals = _with(make("Faster R-CNN").rpn_head)
    for model, by, reason in (
        (_with(own(3, 16)), "class", "OwnHead: the loss code of OwnHead is not known, so nothing"),
        (make("FoveaBox"), "size", "FoveaHead keeps no box .*; by='class' works"),
        (make("FSAF"), "class", "chooses the positives by their losses.*by='level' works"),
        (make("RepPoints"), "level-positives", "its loss has a parameter"),
        (make("SABL"), "class", "learned in buckets"),
        (make("YOLOv3"), "size", "maps that do not tell the objects"),
        (make("GA-RetinaNet"), "class", "three kinds of positives"),
        (learned, "class", "CrossEntropyLoss, which computes loss_cls, has parameters"),
        (counting, "class", "GHMC, which computes loss_cls, keeps a state"),
        (other_box, "size", "OwnBoxHead: loss of OwnBoxHead is not known"),
        (proposals, "class", "RPNHead makes proposals, which have no class"),
    ):
        own_attributes = [vars(module).copy() for module in model.modules()]
        with pytest.raises(AttachError, match=reason):
            attach(model, by=by)
        assert [vars(module) for module in model.modules()] == own_attributes
    for scheme, reason in (
        ("uncertainty", "trains weights by back-propagation"),
        ("avv", "unknown scheme 'avv'; did you mean 'avw'"),
    ):
        model = make("FCOS")
        with pytest.raises(AttachError, match=reason):
            attach(model, scheme)
        assert "parse_losses" not in vars(model)
        assert not model.bbox_head._forward_hooks
    with pytest.raises(AttachError, match="interval must be at least 1"):
        attach(make("FCOS"), interval=0)


def test_subclasses_that_inherit_the_loss_are_known() -> None:
    from mmdet.models.dense_heads import FCOSHead

    wider = type("Wider", (FCOSHead,), {})
    assert list(attach(_with(wider(3, 16))).weights) == ["dense"]
