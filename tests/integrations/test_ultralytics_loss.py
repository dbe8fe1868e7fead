"""The weighed criterion of Ultralytics' models, against Ultralytics' own loss."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

# first, since it says where Ultralytics writes its settings
pytest.importorskip("ultralytics_models", reason="Ultralytics is not installed")

from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import loss as ultralytics_loss
from ultralytics_models import batch, make, plan, step

import scalewise as sw
from scalewise.integrations.attached import AttachError
from scalewise.integrations.ultralytics_loss import _by_level, attach


def test_level_losses_are_those_of_the_anchors_of_the_level() -> None:
    """Ultralytics' terms, called for the anchors of one level alone."""
    data = batch((3, 1))
    plain, model = make("yolo11"), make("yolo11")
    model.args.box, plain.args.box = 5.0, 5.0
    plain.class_weights = model.class_weights = torch.tensor([1.0, 2.0, 0.5, 1.5])
    criterion = attach(model, sw.Static([0.5, 2.0, 0.5]))
    step(model, data)
    plain.criterion = plain.init_criterion()
    calls: dict[str, Any] = {}
    for name in ("bce", "bbox_loss"):
        own = getattr(plain.criterion, name)
        setattr(plain.criterion, name, _spy(calls, name, own))
    step(plain, data)
    logits, targets = calls["bce"]
    distances, boxes, points, wanted, scores, total, positive, size, stride = calls["bbox_loss"]
    term, start = ultralytics_loss.BboxLoss(16), 0
    assert [int(positive[:, a:b].any()) for a, b in ((0, 256), (256, 320), (320, 336))] == [1] * 3
    for level, count in enumerate((256, 64, 16)):
        own = slice(start, start + count)
        start += count
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[:, own], targets[:, own], reduction="none"
        )
        parts = (distances, boxes, wanted, scores, positive)
        d, b, w, s, p = (part[:, own] for part in parts)
        box, distribution = term(d, b, points[own], w, s, total, p, size, stride[own])
        for name, expected in (
            ("box_loss", box * 5.0),
            ("cls_loss", (entropy * plain.class_weights).sum() / total * 0.5),
            ("dfl_loss", distribution * 1.5),
        ):
            torch.testing.assert_close(criterion.level_losses[name][level], expected.detach())


def _spy(calls: dict[str, Any], name: str, own: Any) -> Any:
    def call(*args: Any) -> Any:
        calls[name] = [a.detach() for a in args]
        return own(*args)

    return call


@pytest.mark.parametrize("family", ["yolo11", "yolo26"])
def test_copies_pickles_and_validation_are_plain(family: str) -> None:
    model, plain = make(family), make(family)
    criterion = attach(model, sw.Static([3.0, 1.0, 1.0]), interval=1)
    data = batch((2, 1))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.criterion) is type(plain.init_criterion())
    assert b"scalewise" not in pickle.dumps(model)
    with torch.no_grad():
        found, expected = model(data)[0], plain(data)[0]
    assert torch.equal(found, expected)
    assert criterion.balancer.intervals == 0
    assert not torch.allclose(model(data)[0], expected)
    assert criterion.balancer.intervals == 1
    model.criterion = None
    for mine, own in zip(step(model, data), step(plain, data), strict=True):
        assert all(torch.equal(mine[key], own[key]) for key in own)


def test_the_branches_decay_as_ever() -> None:
    model, plain = make("yolo26"), make("yolo26")
    attach(model, "equal")
    plain.criterion = plain.init_criterion()
    for _ in range(2):
        assert torch.equal(model(batch((2,)))[0], plain(batch((2,)))[0])
        model.criterion.update()
        plain.criterion.update()
    assert model.criterion.o2m == plain.criterion.o2m < 0.8


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
    attach(model, sw.Static([2.0, 0.5, 0.5]))
    with pytest.raises(AttachError, match=f"the levels' {term} add up to .* in another way"):
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
        attach(model, "avw")
        with pytest.raises(AttachError, match=f"{reason} .* in another way"):
            step(model, batch((3, 1)))


def test_a_value_that_is_not_finite_stays_in_its_level() -> None:
    values, levels = torch.tensor([[1.0], [torch.nan], [2.0]]), torch.tensor([0, 1, 0])
    found = _by_level(values, levels, 3).tolist()
    assert found == [3.0, pytest.approx(torch.nan, nan_ok=True), 0.0]


def test_what_cannot_be_handled_is_refused_and_left_alone() -> None:
    own = make("yolo11")
    own.init_criterion = lambda: lambda preds, batch: (0, {})
    twice = make("yolo11")
    attach(twice, "avw")
    bare: Any = DetectionModel(plan("yolo11"), verbose=False)
    subclass = make("yolo11")
    subclass.criterion = type("Own", (ultralytics_loss.v8DetectionLoss,), {})(subclass)
    wrapped = make("yolo26")
    wrapped.criterion = wrapped.init_criterion()
    wrapped.criterion.one2one.bbox_loss = torch.nn.Identity()
    for model, scheme, reason in (
        (own, "avw", "criterion function is not Ultralytics' own"),
        (subclass, "avw", "criterion Own is not Ultralytics' own"),
        (wrapped, "avw", "criterion E2ELoss is not Ultralytics' own"),
        (twice, "avw", "has level weights already"),
        (bare, "avw", "model.args lacks the loss gains"),
        (torch.nn.Sequential(torch.nn.Linear(1, 1)), "avw", "Sequential with head none"),
        (make("yolo11"), "uncertainty", "trains weights by back-propagation"),
    ):
        before = vars(model).copy()
        with pytest.raises(AttachError, match=reason):
            attach(model, scheme)
        assert vars(model) == before
