"""The weighted criterion of Ultralytics' models, compared with Ultralytics' own loss."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

# imported first, since it sets the folder for Ultralytics' settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from torch.nn.functional import binary_cross_entropy_with_logits
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import loss as ultralytics_loss
from ultralytics_models import EDGES, batch, groups_of, make, plan, step

from scalewise.integrations.options import AttachError, Options
from scalewise.integrations.ultralytics_loss import attach_yolo, detach_yolo
from scalewise.integrations.ultralytics_terms import POSITIVES, _by_group

GAINS = {"box_loss": 5.0, "cls_loss": 0.5, "dfl_loss": 1.5}


@pytest.mark.parametrize(
    ("task", "by", "groups"),
    [
        ("detect", "level", 3),
        ("detect", "class", 4),
        ("detect", "level-positives", 3),
        ("segment", "size*class", 12),
        ("obb", "size", 3),
    ],
)
def test_group_losses_are_those_of_their_anchors(task: str, by: str, groups: int) -> None:
    """Ultralytics' own terms are called with the anchors of one group at a time."""
    data = batch((6, 3), task=task)
    plain, model = make("yolo11", task=task), make("yolo11", task=task)
    model.args.box, plain.args.box = 5.0, 5.0
    if by == "level":
        plain.class_weights = model.class_weights = torch.tensor([1.0, 2.0, 0.5, 1.5])
    attached = attach_yolo(model, Options(by, "random", interval=1, size_edges=EDGES))
    assert attached["dense"].num_groups == groups
    step(model, data)
    plain.criterion = plain.init_criterion()
    calls: dict[str, Any] = {}
    for name in ("bce", "bbox_loss", "assigner"):
        setattr(plain.criterion, name, _spy(calls, name, getattr(plain.criterion, name)))
    step(plain, data)
    (logits, targets), _ = calls["bce"]
    inputs, _ = calls["bbox_loss"]
    ids = groups_of(by, *calls["assigner"])
    entropy = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if by == "level":
        entropy = entropy * plain.class_weights
    term, divisor = type(model.criterion.bbox_loss)(16), inputs[5]
    of_cells = torch.arange(3).repeat_interleave(torch.tensor([256, 64, 16])).expand_as(ids)
    found = 0
    for group in range(groups):
        positive = ids == group
        members = of_cells == group if by == "level" else positive
        expected = {"cls_loss": (entropy * members[..., None]).sum() / divisor}
        boxes = term(*inputs[:6], positive, *inputs[7:]) if positive.any() else torch.zeros(2)
        expected["box_loss"], expected["dfl_loss"] = boxes
        for name, gain in GAINS.items():
            own = attached.group_losses[name]
            torch.testing.assert_close(own[group], expected[name].detach() * gain)
        scores = torch.tensor(0.0)
        for image, anchor in positive.nonzero().tolist():
            scores = scores + targets[image, anchor].max()  # the target of its class; others are 0
        count = model.criterion._sums[POSITIVES, group]
        torch.testing.assert_close(count, scores)
        found += bool(count)
    assert found > 1
    if by == "level":
        assert len(attached.group_losses["cls_loss"]) == groups
        return
    background = (entropy * (ids < 0)[..., None]).sum() / divisor * 0.5
    for name in GAINS:
        expected_rest = background if name == "cls_loss" else torch.tensor(0.0)
        torch.testing.assert_close(attached.group_losses[name][groups], expected_rest.detach())


def _spy(calls: dict[str, Any], name: str, own: Any) -> Any:
    def call(*args: Any) -> Any:
        found = own(*args)
        calls[name] = [a.detach() for a in args], found
        return found

    return call


@pytest.mark.parametrize(
    ("family", "task", "weighed"),
    [
        ("yolo11", "segment", (0, 2, 3)),
        ("yolo26", "segment", (0, 2, 3)),
        ("yolo11", "pose", (0, 3, 4)),
        ("yolo26", "pose", (0, 3, 4)),
        ("yolo11", "obb", (0, 1, 2)),
    ],
)
def test_terms_of_masks_keypoints_and_angles_are_not_weighed(
    family: str, task: str, weighed: tuple[int, ...]
) -> None:
    data = batch((3, 1), task=task)
    plain, model = make(family, task=task), make(family, task=task)
    model.args.angle, plain.args.angle = 1.0, 1.0
    model.names = plain.names = dict(enumerate("abcd"))
    attach_yolo(model, Options(scheme="class:a=2:b=2:c=2:d=2"))
    losses, found = model(data)
    expected, own = plain(data)
    assert list(found) == list(own)
    for place, (mine, its) in enumerate(zip(losses, expected, strict=True)):
        assert its > 0 or place >= 4  # a head without such an output
        assert torch.equal(mine, its) == (place not in weighed), place


def test_the_branches_decay_as_ever() -> None:
    model, plain = make("yolo26"), make("yolo26")
    attach_yolo(model, Options(scheme="equal"))
    plain.criterion = plain.init_criterion()
    for _ in range(2):
        assert torch.equal(model(batch((2,)))[0], plain(batch((2,)))[0])
        model.criterion.update()
        plain.criterion.update()
    assert model.criterion.o2m == plain.criterion.o2m < 0.8


def test_groups_are_called_by_their_names() -> None:
    model = make("yolo11")
    for by, names in (
        ("level", ("stride4", "stride8", "stride16")),
        ("level-positives", ("stride4", "stride8", "stride16")),
        ("size", ("small", "medium", "large")),
        ("class", ("class0", "class1", "class2", "class3")),  # the model has the names 0, 1, 2, 3
    ):
        assert attach_yolo(model, Options(by))["dense"].names == names
        detach_yolo(model)
    assert attach_yolo(make("yolo11", 7), Options("level"))["dense"].names[-1] == "level6"
    model.names = ["cat", "dog", "cow", "pig"]  # a list, as in older files
    balancer = attach_yolo(model, Options(scheme="class:dog=2"))["dense"]
    assert balancer.names == ("cat", "dog", "cow", "pig")
    assert balancer.weights.tolist() == [1, 2, 1, 1]
    model.criterion(model(batch((4, 2))["img"]), batch((4, 2)))
    means = model.criterion.means()
    assert means["weight/dog"] == 2
    terms = [means[f"{term}/dog"] for term in ("box_loss", "cls_loss", "dfl_loss")]
    assert means["loss/dog"] == pytest.approx(sum(terms))
    classes = ("cat", "dog", "cow", "pig", "background")
    recorded = model.criterion.attached.group_losses
    whole = sum(float(losses.sum()) for losses in recorded.values())
    assert sum(means[f"loss/{name}"] for name in classes) == pytest.approx(whole)
    assert model.criterion.means() == {}


def test_weights_of_classes_from_both_sides_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ultralytics").addHandler(caplog.handler)
    for by, weights, warns in (
        ("class", torch.ones(4), True),
        ("size", torch.ones(4), False),
        ("class", None, False),
    ):
        caplog.clear()
        model = make("yolo26")
        model.class_weights = weights
        attach_yolo(model, Options(by))
        assert ("cls_pw weighs the classes as well" in caplog.text) == warns
    logging.getLogger("ultralytics").removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ("change", "term"),
    [
        (lambda terms, distances: (2 * terms[0], terms[1]), "box_loss"),
        (lambda terms, distances: (terms[0], terms[1] + distances.sum()), "dfl_loss"),
    ],
)
def test_a_loss_of_another_form_is_noticed(
    monkeypatch: pytest.MonkeyPatch, change: Any, term: str
) -> None:
    own = ultralytics_loss.BboxLoss.forward
    monkeypatch.setattr(
        ultralytics_loss.BboxLoss, "forward", lambda *args: change(own(*args), args[1])
    )
    model = make("yolo11")
    attach_yolo(model, Options(scheme="random"))
    with pytest.raises(AttachError, match=f"the groups' {term} add up to .* in another way"):
        step(model, batch((3, 1)))


def test_boxes_added_up_in_another_way_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(self: Any, *inputs: Any) -> Any:
        scores, positive = inputs[4], inputs[6]
        return scores[positive].mean(), scores[positive].mean()

    def whole(self: Any, *inputs: Any) -> Any:
        scores, positive = inputs[4], inputs[6]
        return scores[positive].sum(), scores.sum()

    def joined(self: Any, *inputs: Any) -> Any:
        scores = torch.cat((inputs[4], inputs[4]))
        return scores.sum(), scores.sum()

    for forward, reason in (
        (mean, "added up 0 times"),
        (whole, "adds up box losses of shape"),
        (joined, "use the target scores in cat:"),
    ):
        monkeypatch.setattr(ultralytics_loss.BboxLoss, "forward", forward)
        model = make("yolo11")
        attach_yolo(model, Options())
        with pytest.raises(AttachError, match=f"{reason} .* in another way"):
            step(model, batch((3, 1)))
        assert type(model.criterion.bbox_loss) is ultralytics_loss.BboxLoss  # restored


def test_a_value_that_is_not_finite_stays_in_its_group() -> None:
    values, groups = torch.tensor([[1.0, torch.nan, 2.0, 4.0]]), torch.tensor([0, 1, 0, 3])
    found = _by_group(values, groups, 3).tolist()
    assert found == [[3.0, pytest.approx(torch.nan, nan_ok=True), 0.0, 4.0]]


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    own = make("yolo11")
    own.init_criterion = lambda: lambda preds, batch: (0, {})
    twice = make("yolo11")
    attach_yolo(twice, Options())
    bare: Any = DetectionModel(plan("yolo11"), verbose=False)
    subclass = make("yolo11")
    subclass.criterion = type("Own", (ultralytics_loss.v8DetectionLoss,), {})(subclass)
    wrapped = make("yolo26")
    wrapped.criterion = wrapped.init_criterion()
    wrapped.criterion.one2one.bbox_loss = torch.nn.Identity()
    alike = make("yolo11")
    alike.names = dict(enumerate(["cat", "dog", "cat", "pig"]))
    options: Any
    for model, options, reason in (
        (own, {}, "criterion function is not Ultralytics' own"),
        (subclass, {}, "criterion Own is not Ultralytics' own"),
        (wrapped, {}, "criterion E2ELoss is not Ultralytics' own"),
        (twice, {}, "has weights already"),
        (bare, {}, "model.args lacks the loss gains"),
        (torch.nn.Sequential(torch.nn.Linear(1, 1)), {}, "Sequential with head none"),
        (make("yolo11"), {"scheme": "class:dog=2"}, "no group dog; there are: class0, class1"),
        (make("yolo11"), {"classes": ["cat"]}, "names 1 classes, the model has 4"),
        (alike, {}, "each group needs a name of its own"),
    ):
        before = vars(model).copy()
        with pytest.raises(AttachError, match=reason):
            attach_yolo(model, Options("class", **{"scheme": "avw", **options}))
        assert vars(model) == before
