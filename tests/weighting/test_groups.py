from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import scalewise.weighting.groups
from scalewise.weighting import (
    LossBalancer,
    by_class,
    by_level,
    by_size,
    product,
    scale_gradients,
    split_levels,
    sum_groups,
    weigh_positives,
)


def test_split_by_hand() -> None:
    loss = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    levels = split_levels(loss, [2, 0, 1])
    assert levels.tolist() == [12, 0, 9]
    torch.autograd.backward((levels * torch.tensor([2.0, 5.0, 3.0])).sum())
    assert loss.grad is not None
    assert loss.grad.tolist() == [[2, 2, 3], [2, 2, 3]]


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=7),
    lead=st.lists(st.integers(1, 3), max_size=2),
    seed=st.integers(0, 99),
)
def test_split_equals_slicing(counts: list[int], lead: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    loss = torch.randn(*lead, sum(counts), generator=generator, dtype=torch.float64)
    loss.requires_grad_()
    weights = torch.randn(len(counts), generator=generator, dtype=torch.float64)
    expected = torch.stack([part.sum() for part in torch.split(loss, counts, dim=-1)])
    levels = split_levels(loss, counts)
    torch.testing.assert_close(levels, expected)
    (one,) = torch.autograd.grad((levels * weights).sum(), loss)
    (other,) = torch.autograd.grad((expected * weights).sum(), loss)
    torch.testing.assert_close(one, other)


def test_half_precision_is_summed_in_float32() -> None:
    loss = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    assert split_levels(loss, [4095, 1]).tolist() == [4095, 1]


@pytest.mark.parametrize("counts", [[1, 1], [4], [-1, 4], []])
def test_counts_that_do_not_fit_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to"):
        split_levels(torch.zeros(2, 3), counts)


def _loss(predictions: list[Tensor], weights: Tensor) -> Tensor:
    return torch.stack([(p.sin() ** 2).sum() for p in predictions]) @ weights


def test_scaled_gradients_are_those_of_the_weighted_loss() -> None:
    torch.manual_seed(0)
    predictions = [torch.randn(2, 3, s, s, dtype=torch.float64, requires_grad=True) for s in (4, 2)]
    weights = torch.tensor([1.7, 0.3], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    scaled = scale_gradients(predictions, weights)
    torch.testing.assert_close(_loss(scaled, ones), _loss(predictions, ones), rtol=0, atol=0)
    found = torch.autograd.grad(_loss(scaled, ones), predictions)
    expected = torch.autograd.grad(_loss(predictions, weights), predictions)
    torch.testing.assert_close(found, expected)


def test_weight_one_changes_no_bit_and_a_later_update_does_not_reach_backward() -> None:
    torch.manual_seed(0)
    predictions = [torch.randn(50, requires_grad=True), torch.randn(7, requires_grad=True)]
    weights = torch.ones(2)
    total = _loss(scale_gradients(predictions, weights), torch.ones(2))
    weights.fill_(9.0)
    found = torch.autograd.grad(total, predictions)
    expected = torch.autograd.grad(_loss(predictions, torch.ones(2)), predictions)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_weight_near_one_survives_bfloat16() -> None:
    prediction = torch.full((1,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    (scaled,) = scale_gradients([prediction], torch.tensor([1.003]))
    (gradient,) = torch.autograd.grad(scaled * 200, prediction)  # 200.6 lies between 200 and 201
    assert gradient.item() == 201


def test_one_weight_per_level() -> None:
    with pytest.raises(ValueError, match="2 levels need weights"):
        scale_gradients([torch.zeros(1), torch.zeros(1)], torch.ones(3))


def test_a_first_call_in_inference_mode_serves_training() -> None:
    counts = [3, 1, 4, 1, 5, 9, 2, 6]  # used by no other test, so nothing is cached
    loss = torch.rand(sum(counts), requires_grad=True)
    with torch.inference_mode():
        split_levels(loss, counts)
    (gradient,) = torch.autograd.grad(split_levels(loss, counts).sum(), loss)
    assert gradient.tolist() == [1] * sum(counts)


def test_a_split_compiles_to_one_graph() -> None:
    counts = [4, 2]
    loss = torch.rand(3, 6, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(split_levels, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(loss, counts), split_levels(loss, counts))
    torch._dynamo.reset()


@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    images=st.integers(1, 3),
    anchors=st.integers(0, 12),
    groups=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_sums_and_gradients_of_groups_equal_a_loop(
    lead: list[int], images: int, anchors: int, groups: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*lead, images, anchors, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, groups + 1, (images, anchors), generator=generator)
    slopes = torch.randn(*lead, groups + 1, generator=generator, dtype=torch.float64)
    expected = torch.zeros(*lead, groups + 1, dtype=torch.float64)
    gradient = torch.zeros_like(values)
    for image in range(images):
        for anchor in range(anchors):
            group = int(ids[image, anchor])
            expected[..., group] += values[..., image, anchor]
            gradient[..., image, anchor] = slopes[..., group]
    sums = sum_groups(values.requires_grad_(), ids, groups)
    torch.testing.assert_close(sums, expected)
    (found,) = torch.autograd.grad((sums * slopes).sum(), values)
    assert torch.equal(found, gradient)


def box(width: float, height: float) -> Tensor:
    return torch.tensor([10.0, 20.0, 10 + width, 20 + height])


@settings(deadline=None)
@given(
    edges=st.lists(st.integers(1, 200), min_size=1, max_size=5, unique=True).map(sorted),
    sides=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=20),
)
def test_a_size_is_the_number_of_edges_up_to_the_root_of_the_area(
    edges: list[int], sides: list[tuple[int, int]]
) -> None:
    grouping = by_size(edges)
    assert grouping.group_of is not None
    boxes = torch.stack([box(w, h) for w, h in sides])
    groups = grouping.group_of(boxes, torch.zeros(len(sides), dtype=torch.int64))
    assert groups.dtype == torch.int64
    assert groups.tolist() == [
        sum(w * h >= edge**2 for edge in edges)  # compared as integers
        for w, h in sides
    ]
    assert len(grouping.names) == len(edges) + 1
    assert grouping.by == "size"


def test_sizes_are_cocos_by_default_and_the_area_of_an_edge_is_of_the_larger() -> None:
    grouping = by_size()
    assert grouping.names == ("small", "medium", "large")
    assert grouping.group_of is not None
    boxes = torch.stack([box(w, h) for w, h in ((64, 15.9), (64, 16), (96, 95.9), (96, 96))])
    assert grouping.group_of(boxes, torch.zeros(4).long()).tolist() == [0, 1, 1, 2]
    leading = grouping.group_of(boxes.view(2, 2, 4), torch.zeros(2, 2).long())
    assert leading.tolist() == [[0, 1], [1, 2]]


def test_other_sizes_are_named_by_their_edges() -> None:
    assert by_size([20, 60.5]).names == ("small", "medium", "large")
    assert by_size([16, 32.5, 64]).names == ("under 16", "16-32.5", "32.5-64", "over 64")
    assert by_size([50]).names == ("under 50", "over 50")


@pytest.mark.parametrize("edges", [[], [0.0, 5.0], [-1.0], [5.0, 4.0], [5.0, 5.0], [math.nan]])
def test_edges_that_do_not_ascend_from_above_zero_are_refused(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="must ascend from above 0"):
        by_size(edges)


def test_classes_are_their_labels() -> None:
    grouping = by_class(["red cell", "white cell"])
    assert (grouping.by, grouping.names) == ("class", ("red cell", "white cell"))
    labels = torch.tensor([[1, 0], [0, 0]])
    assert grouping.group_of is not None
    assert torch.equal(grouping.group_of(torch.zeros(2, 2, 4), labels), labels)


def test_levels_have_no_rule_by_object() -> None:
    grouping = by_level(("P3", "P4"))
    assert (grouping.by, grouping.names) == ("level-positives", ("P3", "P4"))
    assert grouping.group_of is None
    for pair in ((grouping, by_size()), (by_size(), grouping)):
        with pytest.raises(ValueError, match="no product"):
            product(*pair)


def test_a_product_counts_the_second_grouping_fastest() -> None:
    grouping = product(by_size([40]), by_class(["a", "b", "c"]))
    assert grouping.by == "size*class"
    assert grouping.group_of is not None
    boxes = torch.stack([box(side, side) for side in (10, 10, 10, 50, 50, 50)])
    labels = torch.tensor([0, 1, 2] * 2)
    groups = grouping.group_of(boxes, labels)
    assert groups.tolist() == [0, 1, 2, 3, 4, 5]
    assert [grouping.names[group] for group in groups.tolist()] == [
        *("under 40 a", "under 40 b", "under 40 c"),
        *("over 40 a", "over 40 b", "over 40 c"),
    ]
    thrice = product(product(by_size(), by_class(["a", "b"])), by_size([40]))
    assert len(set(thrice.names)) == 12


@given(lead=st.sampled_from([(), (1,), (3,)]), anchors=st.integers(1, 20), seed=st.integers(0, 99))
def test_weighed_positives_are_the_background_and_each_group_times_its_weight(
    lead: tuple[int, ...], anchors: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    loss = torch.rand(*lead, anchors, generator=generator).requires_grad_()
    ids = torch.randint(-1, 3, (*lead, anchors), generator=generator)
    balancer = LossBalancer(["a", "b", "c"], "class:a=0.5:b=4", by="class")
    weight = torch.tensor([0.5, 4.0, 1.0, 1.0])[ids]  # the last is for -1
    total = weigh_positives(loss, ids, balancer)
    torch.testing.assert_close(total, (weight * loss).sum())
    (gradient,) = torch.autograd.grad(total, loss)
    assert torch.equal(gradient, weight)


def test_weight_one_gives_the_plain_sum_and_its_gradient() -> None:
    loss = torch.rand(2, 40, requires_grad=True)
    ids = torch.randint(-1, 3, (2, 40))
    balancer = LossBalancer(3, "share", by="size")
    total = weigh_positives(loss, ids, balancer)
    torch.testing.assert_close(total, loss.sum())
    (gradient,) = torch.autograd.grad(total, loss)
    assert torch.equal(gradient, torch.ones(2, 40))


def test_the_balancer_learns_from_the_losses_and_numbers_of_the_positives() -> None:
    """Means per positive are 1 and 2; group a has twice the positives of group b."""
    balancer = LossBalancer(["a", "b"], "share:power=1", 2, "positives", by="class")
    ids = torch.tensor([[-1, 0, 0, 0, 0, 1, 1]])
    loss = torch.tensor([[9.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]]) / 6
    for _ in range(2):
        weigh_positives(loss, ids, balancer)
    found = balancer.statistics
    assert found.positives is not None
    assert found.positives.tolist() == [8, 4]
    torch.testing.assert_close(found.mean, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(balancer.weights, torch.tensor([0.75, 1.5]))


def test_half_precision_losses_of_anchors_are_summed_in_float32() -> None:
    balancer = LossBalancer(2, "equal", by="size")
    loss = torch.ones(4097, dtype=torch.bfloat16)
    total = weigh_positives(loss, torch.randint(-1, 2, (4097,)), balancer)
    assert total.dtype == torch.float32
    assert float(total) == 4097


def test_as_many_ids_as_losses_are_needed() -> None:
    balancer = LossBalancer(2, "equal", by="size")
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the group ids of shape \(3,\)"):
        weigh_positives(torch.zeros(2, 3), torch.zeros(3).long(), balancer)


def test_ids_that_count_from_one_are_refused() -> None:
    balancer = LossBalancer(["cat", "dog"], "share", by="class")
    with pytest.raises(RuntimeError, match="groups 0 to 1, and an id is above; background is -1"):
        weigh_positives(torch.zeros(3), torch.tensor([1, 2, -1]), balancer)


def test_weighing_positives_compiles_to_one_graph() -> None:
    loss, ids = torch.rand(2, 9, requires_grad=True), torch.randint(-1, 2, (2, 9))
    balancer = LossBalancer(["a", "b"], "class:b=3", by="class")
    torch._dynamo.reset()
    compiled = torch.compile(weigh_positives, fullgraph=True, backend="aot_eager")
    total = compiled(loss, ids, balancer)
    torch.testing.assert_close(total, weigh_positives(loss, ids, balancer))
    torch._dynamo.reset()


def test_examples_in_the_documentation_of_the_functions_run() -> None:
    result = doctest.testmod(scalewise.weighting.groups, extraglobs={"torch": torch})
    assert result.attempted >= 6
    assert result.failed == 0
