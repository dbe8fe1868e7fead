"""Balancers of positives as modules: gradients, evaluation, copies, resuming, compiling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from positives_traces import feed, of_class, trace
from scheme_lists import OF_POSITIVES
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from scalewise.weighting import LossBalancer


@pytest.mark.parametrize("name", OF_POSITIVES)
def test_starts_as_the_plain_sum_in_value_and_gradient(name: str) -> None:
    balancer = LossBalancer(3, name, by="class", objects=[7, 7, 7])
    for size in (4, 3):  # with the background's loss and without
        losses = torch.rand(size, requires_grad=True)
        total = balancer(losses, torch.tensor([1, 2, 3]))
        torch.autograd.backward(total)
        torch.testing.assert_close(total, losses.sum())
        torch.testing.assert_close(losses.grad, torch.ones(size))


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
@pytest.mark.parametrize("name", OF_POSITIVES)
def test_evaluation_weighs_and_changes_nothing_and_needs_no_positives(name: str, mode: str) -> None:
    balancer = of_class(3, name, 4)
    feed(balancer, 10)
    before = copy.deepcopy(balancer.state_dict())
    losses = torch.tensor([1.0, 2.0, 3.0, 0.5])
    expected = balancer.weights @ losses[:3] + 0.5
    if mode == "eval":
        total = balancer.eval()(losses)
    else:
        with torch.no_grad() if mode == "no_grad" else torch.inference_mode():
            total = balancer(losses)
    torch.testing.assert_close(total, expected)
    assert all(torch.equal(v, before[k]) for k, v in balancer.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32_or_better(dtype: torch.dtype) -> None:
    balancer = of_class(["a", "b"], "class:a=1.003")
    losses = torch.tensor([1.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    total = balancer(losses, torch.tensor([2, 1]))
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(total.detach()) == pytest.approx(1.003, abs=1e-6)
    torch.autograd.backward(total)
    assert losses.grad is not None
    assert losses.grad.dtype == dtype


def with_background(row: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.append(row, np.float32(0.7)))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "assign", "move"])
@pytest.mark.parametrize("first", ["training", "inference"])
def test_a_copy_weighs_with_its_own_weights(how: str, first: str) -> None:
    """This holds for every way of copying, and if the copy evaluates before it trains."""
    balancer = of_class(3, "share", 2)
    losses, positives = trace(6, 40, 3, [])
    for row, count in zip(losses[:9], positives[:9], strict=True):
        balancer(with_background(row), torch.from_numpy(count))
    if how == "deepcopy":
        twin = copy.deepcopy(balancer)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(balancer))
    elif how == "assign":
        twin = of_class(3, "share", 2)
        twin.load_state_dict(copy.deepcopy(balancer.state_dict()), assign=True)
    else:
        twin = copy.deepcopy(balancer)
        twin._apply(lambda tensor: tensor.clone())  # as in a move to another device
    if first == "inference":
        with torch.inference_mode():
            twin(with_background(losses[0]))
    assert torch.equal(twin.weights, balancer.weights)
    for row, count in zip(losses[9:], positives[9:], strict=True):
        x = with_background(row).requires_grad_()
        torch.autograd.backward(twin(x, torch.from_numpy(count)))
        expected = torch.cat((balancer.weights, torch.ones(1)))
        torch.testing.assert_close(x.grad, expected, rtol=0, atol=0)
        balancer(with_background(row), torch.from_numpy(count))
        assert torch.equal(twin.weights, balancer.weights)


@pytest.mark.parametrize("interval", [2, 7, 150, "auto"])
@pytest.mark.parametrize("name", OF_POSITIVES)
def test_resumed_mid_interval_it_goes_on_bit_for_bit(name: str, interval: Any) -> None:
    losses, positives = trace(4, 160, 3, ["nan", "explosion"])
    whole = of_class(3, name, interval, seed=9)
    part = of_class(3, name, interval, seed=9)
    for step, (row, count) in enumerate(zip(losses, positives, strict=True)):
        if step in (3, 64, 141):
            saved = part.state_dict()
            part = of_class(3, name, interval, seed=1)
            part.load_state_dict(saved)
        for balancer in (whole, part):
            balancer(torch.from_numpy(row), torch.from_numpy(count))
    one, other = whole.state_dict(), part.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k].nan_to_num(-1), other[k].nan_to_num(-1)) for k in one)
    assert part.intervals == whole.intervals > 0


@pytest.mark.parametrize(("name", "copied"), [("share", True), ("avw", False), ("rlo", True)])
def test_compiled_it_learns_in_one_graph_what_it_learns_eagerly(name: str, copied: bool) -> None:
    losses, positives = (torch.from_numpy(part) for part in trace(5, 30, 3, []))
    eager, balancer = of_class(3, name), of_class(3, name)
    if copied:
        balancer = copy.deepcopy(balancer)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def step(x: Tensor, count: Tensor) -> Tensor:
        return balancer(torch.cat((x * 1.0, x.square().sum()[None])), count)

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    for row, count in zip(losses, positives, strict=True):
        expected = eager(torch.cat((row, row.square().sum()[None])), count)
        row = row.clone().requires_grad_()
        slope = balancer.weights + 2 * row.detach()
        total = compiled(row, count)
        torch.autograd.backward(total)
        balancer.advance()
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(row.grad, slope)
    torch.testing.assert_close(balancer.weights, eager.weights)
    assert balancer.intervals == eager.intervals == 6
    assert float(eager.weights.std()) > 0.01
    assert counter.frame_count == 1
    torch._dynamo.reset()
