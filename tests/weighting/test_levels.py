from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalewise.weighting.levels import scale_gradients, split_levels


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
    counts = [3, 1, 4, 1, 5, 9, 2, 6]  # of no other test, so that nothing is cached
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
