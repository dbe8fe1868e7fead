"""Attached torchvision models, compared with torchvision's own losses and gradients."""

from __future__ import annotations

import copy
import doctest
import io
import sys
import warnings
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from checks import close
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision_models import CLASSES, EDGES, FAMILIES, Pyramid, Seen, batch, make, step
from torchvision_models import weigh_predictions as weigh

import scalewise as sw
from scalewise.integrations import attach, torchvision
from scalewise.integrations.attached import AttachedBalancer
from scalewise.integrations.options import AttachError
from scalewise.weighting import LossBalancer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_move_and_detections_stay_the_framework(family: str) -> None:
    model = make(family)
    balancer = sw.attach(model, scheme="avw", interval=2)
    for seed in range(5):
        step(model, batch((3, 2), seed))
    for name in balancer.weights:
        assert balancer[name].intervals == 2
    assert any((w != 1).any() for w in balancer.weights.values())
    images, _ = batch((1, 1))
    plain = make(family)
    sw.detach(model)
    plain.load_state_dict(model.state_dict())
    one, other = model.eval()(images), plain.eval()(images)
    assert [list(d) for d in one] == [list(d) for d in other]
    for mine, own in zip(one, other, strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("family", FAMILIES)
def test_detach_restores_the_model(family: str) -> None:
    data = batch((2, 1))
    plain, model = make(family), make(family)
    sw.attach(model, "size", sw.RandomWeights(), interval=1)
    step(model, data)
    sw.detach(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    for module, other in zip(model.modules(), plain.modules(), strict=True):
        assert vars(module).keys() == vars(other).keys()
        assert len(module._forward_hooks) == len(other._forward_hooks)
        assert len(module._forward_pre_hooks) == len(other._forward_pre_hooks)
    for mine, own in zip(step(model, data), step(plain, data), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


@pytest.mark.parametrize("by", ["size", "level"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_of_validation_are_plain_and_not_recorded(family: str, by: str) -> None:
    images, targets = batch((3, 0, 2))
    plain, model = make(family), make(family)
    attached = sw.attach(model, by, sw.RandomWeights(), interval=1, size_edges=EDGES)
    step(model, (images, targets))
    balancers = [attached[name] for name in attached.weights]
    before = [(b.calls, b.block.clone(), b.weights.clone()) for b in balancers]
    groups = dict(attached.group_losses)
    found = []
    for one in (model, plain):
        torch.manual_seed(7)  # for the samplers
        with torch.no_grad():
            found.append(one(images, targets))
    assert list(found[0]) == list(found[1])
    assert all(torch.equal(found[0][name], own) for name, own in found[1].items())
    for balancer, (calls, block, weights) in zip(balancers, before, strict=True):
        assert balancer.calls == calls == 1
        assert torch.equal(balancer.block, block)
        assert torch.equal(balancer.weights, weights)
        assert (weights != 1).any()
    assert all(attached.group_losses[name] is value for name, value in groups.items())


def recorded(balancer: LossBalancer) -> list[float]:
    """Positives of each group in the last step."""
    row = balancer.block[(balancer.calls - 1) % len(balancer.block)]
    return row[balancer.num_groups + 1 :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("by", ["class", "size*class"])
def test_positives_are_counted_and_losses_add_up(family: str, by: str) -> None:
    data = batch((3, 0, 4), 3)
    plain, model = make(family), make(family)
    attached = sw.attach(model, by, size_edges=EDGES)
    ((name, weights),) = attached.weights.items()  # a single set: no RPN
    seen = weigh(plain, {name: weights.clone()}, by)
    assert isinstance(seen, Seen)
    found, expected = step(model, data)[0], step(plain, data)[0]
    counts = Counter(seen.groups)
    assert recorded(attached[name]) == [counts[group] for group in range(len(weights))]
    assert len(counts) > 2
    close(found, expected, "losses")
    for key, groups in attached.group_losses.items():
        torch.testing.assert_close(groups.sum(), expected[key])


def resized(data: Any) -> Any:
    """The same images and objects at twice the width and three times the height."""
    images, targets = data
    large = [image.repeat_interleave(2, 2).repeat_interleave(3, 1) for image in images]
    factors = torch.tensor([2.0, 3.0, 2.0, 3.0])
    masks = [one["masks"].repeat_interleave(2, 2).repeat_interleave(3, 1) for one in targets]
    return large, [
        one | {"boxes": one["boxes"] * factors, "masks": mask}
        for one, mask in zip(targets, masks, strict=True)
    ]


@pytest.mark.parametrize("family", ["fcos", "ssd", "mask_rcnn"])
def test_sizes_are_those_of_the_original_image(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = tuple(edge * 6**0.5 for edge in EDGES)
    monkeypatch.setattr("torchvision_models.EDGES", edges)
    data = resized(batch((4, 3), 0))
    plain, model = make(family), make(family)
    attached = sw.attach(model, scheme="size:small=0.5:large=3", size_edges=edges)
    names = ["dense"] if family in ("fcos", "ssd") else ["rpn", "roi"]
    assert list(attached.weights) == names
    weigh(plain, {name: torch.tensor([0.5, 1.0, 3.0]) for name in names}, "size")
    close(step(model, data)[1], step(plain, data)[1], "gradients")
    assert all(min(recorded(attached[name])) > 0 for name in names)


def test_checkpoints_with_and_without_weights_are_exchanged() -> None:
    plain, attached = make("fcos", seed=1), make("fcos", seed=2)
    sw.attach(attached, scheme="avw")
    with pytest.warns(UserWarning, match="saved before attaching"):
        attached.load_state_dict(plain.state_dict())
    saved = attached.state_dict()
    assert any(key.startswith("scalewise.") for key in saved)
    sw.detach(attached)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attached.load_state_dict(saved)
        sw.detach(plain)  # never attached; then it can load such a checkpoint
        plain.load_state_dict(saved)


def pickled(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, pickled])
def test_a_copy_has_a_state_of_its_own(twin_of: Any) -> None:
    model = make("faster_rcnn")
    sw.attach(model, "size", "avw", interval=2)
    twin = twin_of(model)
    data = batch((2, 1))
    for _ in range(3):
        step(model, data)
    assert model.scalewise["rpn"].intervals == 1
    assert twin.scalewise["rpn"].intervals == 0
    step(twin, data)
    assert twin.scalewise["rpn"].calls == 1
    assert model.scalewise["rpn"].calls == 3
    assert twin.scalewise.group_losses.keys() == model.scalewise.group_losses.keys()


@pytest.mark.parametrize(
    ("family", "place"),
    [("retinanet", "head"), ("faster_rcnn", "rpn"), ("faster_rcnn", "roi_heads.box_predictor")],
)
def test_a_part_that_was_replaced_is_told(family: str, place: str) -> None:
    """A replaced part raises an error, since the weights would not reach it."""
    model, data = make(family), batch((2, 1))
    other = copy.deepcopy(model.get_submodule(place))
    sw.attach(model)
    step(model, data)
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, other)
    with pytest.raises(AttachError, match=f"{place} of this .* was replaced after"):
        step(model, data)
    model.eval()(data[0])
    sw.detach(model.train())
    attached = sw.attach(model)
    step(model, data)
    assert [attached[one].calls for one in attached.weights] == [1]


def test_a_compiled_step_is_counted() -> None:
    own = sw.LossBalancer(["cat", "dog"], sw.RandomWeights(), interval=1, by="class")
    attached = AttachedBalancer({"dense": own})

    @partial(torch.compile, backend="eager")
    def total(losses: Tensor) -> Tensor:
        return attached.weigh("dense", {"loss": losses * 2}, torch.ones(2))["loss"]

    for count in (1, 2):
        losses = torch.ones(3, requires_grad=True)
        before = own.weights.clone()
        torch.autograd.backward(total(losses))
        assert losses.grad is not None
        torch.testing.assert_close(losses.grad[:2], 2 * before)
        assert own.calls == count
        assert not torch.equal(own.weights, before)


def names(family: str, **options: Any) -> tuple[str, ...]:
    attached = sw.attach(make(family), **options)
    return attached["roi" if "rcnn" in family else "dense"].names


def test_classes_are_named_from_the_first_label_on() -> None:
    assert names("fcos") == ("class0", "class1", "class2", "class3")
    assert names("ssd") == names("mask_rcnn") == ("class1", "class2", "class3")
    for family in ("retinanet", "ssdlite", "faster_rcnn"):
        assert names(family, classes=["a", "b", "c"]) == ("a", "b", "c")
    assert names("fcos", classes=["_", "a", "b", "c"]) == ("_", "a", "b", "c")
    assert names("ssd", classes=["_", "a", "N/A", "N/A"]) == ("a", "N/A 2", "N/A 3")
    assert names("ssd", by="size*class")[:2] == ("small class1", "small class2")
    assert names("ssd", by="size", classes=["of", "no", "use", "to", "it"])[2] == "large"


@pytest.mark.parametrize("family", ["fcos", "ssd", "faster_rcnn"])
def test_weights_reach_the_label_that_they_are_named_for(family: str) -> None:
    """An object of label 0 is in no group where 0 is the background."""
    images, targets = batch((2,))
    losses: list[Tensor] = []
    for weight, label in ((1, 2), (3, 2), (3, 1), (3, 0)):
        model = make(family)
        sw.attach(model, scheme=f"class:b={weight}", classes=["a", "b", "c"])
        targets[0]["labels"][:] = label
        losses.append(torch.stack(list(step(model, (images, targets))[0].values())))
        plain = torch.stack(list(step(make(family), (images, targets))[0].values()))
        assert torch.allclose(losses[-1], plain) == (weight == 1 or label != 2)
    assert (losses[1] > losses[0] + 1e-3).any()


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    subclass = type("Own", (RetinaNet,), {"compute_loss": lambda self, *args: {}})
    own = subclass(Pyramid(3, False), 4, anchor_generator=make("retinanet").anchor_generator)
    wrapped, twice, predictor = make("fcos"), make("ssd"), make("faster_rcnn")
    wrapped.head.compute_loss = lambda *args: {}
    sw.attach(twice)
    predictor.roi_heads.box_predictor = nn.Identity()
    options: dict[str, Any]
    for model, reason, options in (
        (own, r"Own.compute_loss is not torchvision's RetinaNet.compute_loss", {}),
        (wrapped, r"FCOSHead.compute_loss is not torchvision's", {}),
        (twice, "has weights already", {}),
        (nn.Linear(1, 1), "Linear is not a model of torchvision", {}),
        (nn.Sequential(make("fcos")), "not a module that wraps it", {}),
        (make("ssd").backbone, "Pyramid is not a model of", {}),
        (predictor, "of this model's box_predictor is not known; name them", {}),
        (make("fcos"), "names 2 classes, the model has 4 labels", {"classes": ["a", "b"]}),
        (make("fcos"), "no group b; there are: class0, class1", {"scheme": "class:b=2"}),
        (make("fcos"), "no group tiny; there are: small, medium", {"scheme": "size:tiny=2"}),
        (make("fcos"), "by='scale': choose one of 'class'", {"by": "scale"}),
        (make("fcos"), "losses= is for mmengine", {"losses": ["loss_cls"]}),
        (make("fcos"), "trains its weights by back-propagation", {"scheme": "uncertainty"}),
    ):
        before = vars(model).copy()
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        with pytest.raises(AttachError, match=reason):
            sw.attach(model, **options)
        assert vars(model) == before
        assert hooks == sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
        )


def test_a_predictor_of_ones_own_needs_the_classes_names() -> None:
    model = make("faster_rcnn")
    own, model.roi_heads.box_predictor = model.roi_heads.box_predictor, nn.Sequential()
    model.roi_heads.box_predictor.own = own
    model.roi_heads.box_predictor.forward = own.forward
    attached = sw.attach(model, classes=["a", "b", "c"])
    step(model, batch((3,)))
    assert attached["roi"].names == ("a", "b", "c")
    assert sum(recorded(attached["roi"])) > 0
    assert len(attached.group_losses["loss_box_reg"]) == CLASSES


def test_without_any_framework_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision", "ultralytics", "mmengine", "mmdet", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AttachError, match="Linear is not a model of torchvision"):
        sw.attach(nn.Linear(1, 1))


@pytest.mark.parametrize("module", [attach, torchvision])
def test_examples_hold(module: Any) -> None:
    torch.manual_seed(0)
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
