"""Losses by group of objects, compared with loops over the anchors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detector_batches import FACTORIES, gradients, make_batch, operations, random_batch, total
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from scalewise.detectors import Batch, DenseDetector, pad_objects
from scalewise.lab.detectors.group_sums import object_factor
from scalewise.lab.detectors.method import AnchorLosses
from scalewise.weighting import (
    Grouping,
    LossBalancer,
    by_class,
    by_level,
    by_size,
    product,
)

LEVELS = ("P3", "P4", "P5", "P6", "P7")
EDGES = (20.0, 45.0)
GROUPINGS = {
    "class": by_class(["a", "b", "c", "d", "e"]),
    "size": by_size(EDGES),
    "level": by_level(LEVELS),
    "size*class": product(by_size(EDGES), by_class(["a", "b", "c", "d", "e"])),
}
every_method = pytest.mark.parametrize("name", sorted(FACTORIES))
every_grouping = pytest.mark.parametrize("by", GROUPINGS)


def grouped(
    name: str, by: str | None, object_power: float = 0.0, width: int = 16, depth: int = 1
) -> DenseDetector:
    """A tiny detector with small anchors, so that small images have positives on many levels."""
    torch.manual_seed(0)
    return FACTORIES[name](
        "resnet18",
        5,
        width=width,
        depth=depth,
        freeze_bn=True,
        freeze_stem=True,
        anchor_scale=0.5,
        grouping=GROUPINGS[by] if by else None,
        object_power=object_power,
    )


def scaled_batch(seed: int = 0) -> Batch:
    """Three images with different scales."""
    batch = random_batch(seed, 3, 6, 128, 160)
    return batch._replace(scales=torch.tensor([[1.0, 1.0], [2.0, 1.5], [0.5, 0.7]]))


def slow_ids(detector: DenseDetector, found: AnchorLosses, batch: Batch, by: str) -> Tensor:
    """The group of each anchor, -1 for the background, anchor by anchor."""
    shapes = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))  # for 128 x 160 pixels
    anchors = detector.method.anchors
    level_of = [i for i, (h, w) in enumerate(shapes) for _ in range(h * w * anchors)]
    ids = torch.full(found.owner.shape, -1)
    assert len(level_of) == ids.shape[1]
    for image, anchor in found.positive.nonzero().tolist():
        row = int(found.owner[image, anchor])
        x1, y1, x2, y2 = batch.boxes[image, row].tolist()
        x, y = batch.scales[image].tolist()
        area = (x2 - x1) / x * (y2 - y1) / y
        size = sum(area >= edge**2 for edge in EDGES)
        label = int(batch.labels[image, row])
        ids[image, anchor] = {
            "class": label,
            "size": size,
            "level": level_of[anchor],
            "size*class": size * 5 + label,
        }[by]
    return ids


def slow_factor(found: AnchorLosses, power: float) -> Tensor:
    """k^-power of each positive, scaled to mean 1; k is the number of positives of its object."""
    factor = torch.ones(found.owner.shape)
    positives: list[tuple[int, int]] = [(b, a) for b, a in found.positive.nonzero().tolist()]
    owners = [(b, int(found.owner[b, a])) for b, a in positives]
    raw = [owners.count(owner) ** -power for owner in owners]
    for (b, a), value in zip(positives, raw, strict=True):
        factor[b, a] = value * len(raw) / sum(raw)
    return factor


def anchor_losses(detector: DenseDetector, batch: Batch) -> AnchorLosses:
    return detector.method.losses(*detector.predict(batch.images, batch.sizes), batch)


def weighted(detector: DenseDetector, found: AnchorLosses, weight: Tensor) -> Tensor:
    """The detector's loss with a weight for each anchor, float32 [B, A]."""
    return torch.stack(
        [
            detector.method.normalise(term, (weight * values).sum(), found.normalisers)
            for term, values in found.terms.items()
        ]
    ).sum()


@every_method
@every_grouping
def test_groups_and_background_add_up_to_the_loss_of_all_levels(name: str, by: str) -> None:
    batch = scaled_batch()
    plain, detector = grouped(name, None), grouped(name, by)
    by_levels, by_groups = plain(batch), detector(batch)
    groups = len(GROUPINGS[by].names)
    assert detector.group_names == GROUPINGS[by].names
    assert tuple(by_groups) == detector.terms
    for term, losses in by_groups.items():
        assert losses.shape == (groups + 1,)
        torch.testing.assert_close(losses.sum(), by_levels[term].sum(), rtol=1e-5, atol=0)
        if term != "classification":
            assert not losses[-1]  # background has neither boxes nor centerness
            assert ((losses[:-1] > 0) == (detector.positives > 0)).all()
    assert detector.positives.shape == (groups,)
    assert not detector.positives.requires_grad
    assert detector.positives.sum() == plain.positives.sum() > 0


@every_method
@every_grouping
def test_positives_of_each_group_are_counted_from_the_assignment(name: str, by: str) -> None:
    batch = scaled_batch(1)
    detector = grouped(name, by)
    detector(batch)
    ids = slow_ids(detector, anchor_losses(detector, batch), batch, by)
    expected = [int((ids == group).sum()) for group in range(len(GROUPINGS[by].names))]
    assert detector.positives.tolist() == expected
    assert sum(count > 0 for count in expected) > 1


@every_method
@every_grouping
def test_weights_of_groups_give_the_gradients_of_weights_of_anchors(name: str, by: str) -> None:
    batch = scaled_batch(2)
    detector = grouped(name, by, width=8, depth=0)
    names = GROUPINGS[by].names
    weights = torch.linspace(0.3, 4.0, len(names))

    balancer = LossBalancer(names, "equal", by=GROUPINGS[by].by)
    balancer.weights.copy_(weights)
    terms = detector(batch)
    loss = balancer(torch.stack(list(terms.values())).sum(0), detector.positives)
    torch.autograd.backward(loss)
    found = gradients(detector)

    anchors = anchor_losses(detector, batch)
    per_anchor = torch.cat((weights, torch.ones(1)))[slow_ids(detector, anchors, batch, by)]
    expected = weighted(detector, anchors, per_anchor)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert abs(expected.detach() / total(terms).detach() - 1) > 1e-3
    torch.autograd.backward(expected)
    for parameter, slope in gradients(detector).items():
        scale = float(slope.abs().max())
        torch.testing.assert_close(found[parameter], slope, rtol=1e-3, atol=1e-5 * scale)


@every_method
def test_weight_one_gives_the_gradients_without_grouping(name: str) -> None:
    batch = scaled_batch(2)
    detector, plain = grouped(name, "class", width=8, depth=0), grouped(name, None, 0, 8, 0)
    balancer = LossBalancer(5, "equal", by="class")
    terms = detector(batch)
    torch.autograd.backward(balancer(torch.stack(list(terms.values())).sum(0), detector.positives))
    torch.autograd.backward(total(plain(batch)))
    found = gradients(detector)
    for parameter, slope in gradients(plain).items():
        scale = float(slope.abs().max())
        torch.testing.assert_close(found[parameter], slope, rtol=1e-3, atol=1e-5 * scale)


@every_method
def test_sizes_are_those_in_the_original_image(name: str) -> None:
    """A box of 40 x 40 pixels, once in an enlarged, a plain and a shrunk image."""
    boxes = torch.tensor([[[40.0, 40.0, 80.0, 80.0]]] * 3)
    labels = torch.zeros(3, 1, dtype=torch.int64)
    batch = make_batch(boxes, labels, labels == 0, 128, 160)
    scales = torch.tensor([[4.0, 2.0], [1.0, 1.0], [0.5, 1.0]])  # original sizes 14.1, 40 and 56.6
    detector = grouped(name, "size")
    detector(batch._replace(scales=scales))
    assert len(set(detector.positives.tolist())) == 1
    assert float(detector.positives[0]) > 0
    detector(batch)
    assert detector.positives[[0, 2]].tolist() == [0, 0]


@every_method
@pytest.mark.parametrize("by", [None, "class"])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_object_power_weighs_each_positive_by_the_positives_of_its_object(
    name: str, by: str | None, power: float
) -> None:
    batch = scaled_batch(3)
    detector = grouped(name, by, power, width=8, depth=0)
    loss = total(detector(batch))
    found = anchor_losses(detector, batch)
    factor = slow_factor(found, power)
    assert float(factor[found.positive].mean()) == pytest.approx(1, abs=1e-5)
    assert float(factor[found.positive].std()) > 0.05
    torch.testing.assert_close(loss, weighted(detector, found, factor), rtol=1e-5, atol=0)
    assert detector.positives.sum() == found.positive.sum()  # the power does not change the count


@given(
    owner=st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=3).map(
        torch.tensor
    )
)
def test_with_object_power_one_every_object_counts_alike_and_the_mean_stays_one(
    owner: Tensor,
) -> None:
    """Owner 4 means that an anchor has no object."""
    factor = object_factor(owner, 4, 1.0)
    positive = owner < 4
    assert (factor[~positive] == 1).all()
    if positive.any():
        assert float(factor[positive].mean()) == pytest.approx(1, abs=1e-5)
        sums = [
            float(factor[image][owner[image] == row].sum())
            for image in range(len(owner))
            for row in range(4)
            if (owner[image] == row).any()
        ]
        assert max(sums) == pytest.approx(min(sums), rel=1e-5)
    assert torch.equal(object_factor(owner, 4, 0.0), torch.ones(owner.shape))


@every_method
@pytest.mark.parametrize("empty", ["no rows", "no valid rows"])
def test_without_objects_all_is_background(name: str, empty: str) -> None:
    batch = random_batch(4, 2, 0 if empty == "no rows" else 3, 96, 96)
    batch = batch._replace(valid=torch.zeros_like(batch.valid))
    detector = grouped(name, "size*class", 0.5)
    losses = detector(batch)
    torch.autograd.backward(total(losses))
    assert not detector.positives.any()
    for term, values in losses.items():
        assert not values[:-1].any()
        assert bool(values[-1] > 0) == (term == "classification")
    assert all(slope.isfinite().all() for slope in gradients(detector).values())


@every_method
@every_grouping
def test_a_step_of_groups_never_waits_for_the_device(name: str, by: str) -> None:
    detector = grouped(name, by, 0.5, width=8, depth=0)
    balancer = LossBalancer(detector.group_names, "share", 1, by=GROUPINGS[by].by)
    batch = random_batch(7, 2, 5, 64, 64)
    with operations() as seen:
        losses = torch.stack(list(detector(batch).values())).sum(0)
        torch.autograd.backward(balancer(losses, detector.positives))
    assert not seen.waits
    assert balancer.intervals == 1


@pytest.mark.parametrize(
    ("name", "by"), [("atss", "size*class"), ("fcos", "size"), ("retinanet", "class")]
)
def test_a_step_of_groups_compiles_to_one_graph(name: str, by: str) -> None:
    """A second graph serves any number of objects."""
    torch._dynamo.reset()
    detector = grouped(name, by, 0.5, width=8, depth=0)
    counter = CompileCounterWithBackend("eager")
    compiled: Callable[[Batch], dict[str, Tensor]] = torch.compile(
        detector, fullgraph=True, backend=counter
    )
    for objects in (3, 5, 8, 0, 1, 31):  # unpadded, 0 and 1 would need more graphs
        batch = random_batch(objects, 2, objects, 64, 96)
        losses = compiled(pad_objects(batch) if objects in (0, 1, 31) else batch)
        positives = detector.positives.clone()
        for term, expected in detector(batch).items():
            torch.testing.assert_close(losses[term], expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(positives, detector.positives)
        assert objects < 2 or positives.sum() > 0
    assert counter.frame_count <= 2
    torch._dynamo.reset()


def test_a_grouping_of_ones_own() -> None:
    """A user's grouping by shape: wide or tall."""

    def shape(boxes: Tensor, labels: Tensor) -> Tensor:
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
        return (height > width).long()

    torch.manual_seed(0)
    detector = FACTORIES["fcos"](
        "resnet18", 5, width=8, depth=0, grouping=Grouping("shape", ("wide", "tall"), shape)
    )
    boxes = torch.tensor([[[8.0, 8.0, 60.0, 28.0]]])
    labels = torch.zeros(1, 1, dtype=torch.int64)
    detector(make_batch(boxes, labels, labels == 0, 64, 64))
    assert detector.positives[0] > 0
    assert detector.positives[1] == 0
    detector(make_batch(boxes[..., [1, 0, 3, 2]], labels, labels == 0, 64, 64))
    assert detector.positives[0] == 0
    assert detector.positives[1] > 0


@pytest.mark.parametrize("power", [-0.1, 1.5])
def test_object_powers_out_of_range_are_refused(power: float) -> None:
    with pytest.raises(ValueError, match=r"object_power must lie in 0\.\.1"):
        grouped("atss", None, power)
