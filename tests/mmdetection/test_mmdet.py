"""Attached detectors against MMDetection's own losses and gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip(
    "mmdet.registry", reason="MMDetection has an environment of its own: make test-mmdet"
)

from mmdet_configs import CLASSES, FAMILIES, LISTS
from mmdet_models import SIDE, SUBJECTS, batch, make, step

import scalewise as sw
from scalewise.integrations.attached import AttachError
from scalewise.integrations.mmengine import attach

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


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_at_weight_one_it_is_the_framework(family: str, counts: tuple[int, ...]) -> None:
    data = batch(counts)
    plain, attached = make(family), make(family)
    attach(attached, "equal")
    for mine, own in zip(step(attached, data), step(plain, data), strict=True):
        if family in LISTS:
            assert all(torch.equal(mine[key], value) for key, value in own.items())
        _close(mine, own)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_are_those_of_the_reference(family: str) -> None:
    data = batch((3, 2))
    plain, attached = make(family), make(family)
    weights = attach(attached, sw.Static([0.3, 1.1, 1.6])).weights
    SUBJECTS[family].weigh(plain, weights)
    before = step(make(family), data)[1]
    gradients, expected = step(attached, data)[1], step(plain, data)[1]
    _close(gradients, expected)
    assert any(not torch.allclose(gradients[key], before[key], rtol=1e-2) for key in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_level_losses_add_up_to_the_framework_s(family: str) -> None:
    data = batch((3, 2))
    model = make(family)
    attached = attach(model, sw.Static([0.3, 1.1, 1.6]))
    weighted = step(model, data)[0]
    own = step(make(family), data)[0]
    ((name, losses),) = attached.level_losses.items()
    named = [key for key in own if "loss" in key and key != "loss" and "roi" not in key]
    if name == "rpn":
        named = [key for key in named if "rpn" in key]
    assert sorted(losses) == sorted(named)
    for key, levels in losses.items():
        torch.testing.assert_close(levels.sum(), own[key])
        torch.testing.assert_close((attached.weights[name] * levels).sum(), weighted[key])


def test_fcos_level_losses_are_its_loss_of_each_level() -> None:
    model = make("FCOS")
    attached = attach(model, "equal")
    images, samples = batch((3, 2))
    step(model, (images, samples))
    head = make("FCOS").bbox_head
    scores, boxes, centers = head(make("FCOS").extract_feat(images))
    points = head.prior_generator.grid_priors([s.shape[-2:] for s in scores], device="cpu")
    labels, targets = head.get_targets(points, [s.gt_instances for s in samples])
    positive = [own < CLASSES for own in labels]
    normaliser = sum(int(p.sum()) for p in positive)
    middles = [head.centerness_target(t[p]) for t, p in zip(targets, positive, strict=True)]
    total = float(torch.cat(middles).sum())
    for level in range(3):
        found = {key: own[level] for key, own in attached.level_losses["dense"].items()}
        at, middle = positive[level], middles[level]
        rows = scores[level].permute(0, 2, 3, 1).reshape(-1, CLASSES)
        expected = {"loss_cls": head.loss_cls(rows, labels[level], avg_factor=normaliser)}
        expected |= {"loss_bbox": torch.zeros(()), "loss_centerness": torch.zeros(())}
        if at.any():
            places = points[level].repeat(2, 1)[at]
            box = boxes[level].permute(0, 2, 3, 1).reshape(-1, 4)[at]
            pair = (head.bbox_coder.decode(places, b) for b in (box, targets[level][at]))
            expected["loss_bbox"] = head.loss_bbox(*pair, weight=middle, avg_factor=total)
            logit = centers[level].permute(0, 2, 3, 1).reshape(-1)[at]
            expected["loss_centerness"] = (
                F.binary_cross_entropy_with_logits(logit, middle, reduction="sum") / normaliser
            )
        _close(found, {key: value.detach() for key, value in expected.items()})


def test_yolox_level_losses_follow_the_order_of_its_rows(monkeypatch: Any) -> None:
    model = make("YOLOX")
    attached = attach(model, "equal")
    images, samples = batch((3, 2))
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
    normaliser = sum(int(own[0].sum()) for own in seen)
    for level, place in enumerate(torch.split(torch.arange(sum(counts)), counts)):
        object_loss, class_loss = torch.zeros(()), torch.zeros(())
        for image, (mask, classes, wanted, *_) in enumerate(seen):
            logit = objects[level][image].flatten()
            object_loss += F.binary_cross_entropy_with_logits(
                logit, wanted[place, 0], reduction="sum"
            )
            rows = scores[level][image].permute(1, 2, 0).reshape(-1, CLASSES)[mask[place]]
            of_level = torch.isin(torch.where(mask)[0], place)
            class_loss += F.binary_cross_entropy_with_logits(
                rows, classes[of_level], reduction="sum"
            )
        found = attached.level_losses["dense"]
        torch.testing.assert_close(found["loss_obj"][level], object_loss.detach() / normaliser)
        torch.testing.assert_close(found["loss_cls"][level], class_loss.detach() / normaliser)


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS", "YOLOX", "Faster R-CNN"])
def test_detach_restores_the_model(family: str) -> None:
    plain, model = make(family), make(family)
    attached = attach(model, sw.RandomWeights(), interval=1)
    step(model, batch((2, 1)))
    attached.detach()
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        # `epoch` and the like are the framework's; what `attach` sets must be gone
        assert {n for n in vars(module) if callable(vars(module)[n])} == {
            n for n in vars(other) if callable(vars(other)[n])
        }
        assert len(module._forward_hooks) == len(other._forward_hooks)
    for mine, own in zip(step(model, batch((2, 1))), step(plain, batch((2, 1))), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("family", ["RetinaNet", "FCOS"])
def test_under_bfloat16_equal_weights_are_the_framework(family: str) -> None:
    data = batch((3, 1))
    plain, attached = make(family), make(family)
    attach(attached, "equal")
    with torch.autocast("cpu", torch.bfloat16):
        (mine, _), (own, _) = step(attached, data), step(plain, data)
    assert all(torch.equal(mine[key], value) for key, value in own.items())


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
    attached = attach(model, sw.Static([0.5, 1.0, 1.5]), losses=("loss_branch", "loss_other"))
    inputs = torch.arange(5.0)
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
