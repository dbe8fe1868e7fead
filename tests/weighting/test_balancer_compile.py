from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from scalewise.weighting import LossBalancer

ROWS = torch.rand(60, 3, generator=torch.Generator().manual_seed(2)) + 0.1


def eager_run(name: str, **settings: Any) -> tuple[Tensor, LossBalancer]:
    balancer = LossBalancer(3, name, 7, **settings)
    return torch.stack([balancer(row) for row in ROWS]), balancer


@pytest.mark.parametrize("name", ["avw", "rlo"])
def test_one_full_graph_serves_every_interval(name: str) -> None:
    expected, eager = eager_run(name)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    balancer = LossBalancer(3, name, 7)

    def step(losses: Tensor) -> Tensor:
        return balancer(losses * 1.0)

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    totals = []
    for row in ROWS:
        losses = row.clone().requires_grad_()
        weights = balancer.weights.clone()
        total = compiled(losses)
        torch.autograd.backward(total)
        torch.testing.assert_close(losses.grad, weights)
        totals.append(total.detach())
        balancer.advance()
    torch.testing.assert_close(torch.stack(totals), expected)
    torch.testing.assert_close(balancer.weights, eager.weights)
    assert balancer.intervals == eager.intervals == 8
    assert counter.frame_count == 1


def test_a_loop_may_always_advance() -> None:
    expected, eager = eager_run("avw", accumulate=2)
    balancer = LossBalancer(3, "avw", 7, accumulate=2)
    totals = []
    for row in ROWS:
        totals.append(balancer(row))
        balancer.advance()
    torch.testing.assert_close(torch.stack(totals), expected, rtol=0, atol=0)
    assert balancer.intervals == eager.intervals == 4


def test_forgetting_to_advance_changes_nothing_but_the_scratch_row() -> None:
    torch._dynamo.reset()
    balancer = LossBalancer(3, "avw", 2)
    before = {name: buffer.clone() for name, buffer in balancer.named_buffers()}
    compiled = torch.compile(balancer, fullgraph=True, backend="aot_eager")
    for row in ROWS:
        compiled(row)
    changed = {n for n, b in balancer.named_buffers() if not torch.equal(b, before[n])}
    assert changed == {"latest"}
    assert balancer.intervals == 0


def test_evaluation_in_a_compiled_function_records_nothing() -> None:
    torch._dynamo.reset()
    balancer = LossBalancer(3, "avw", 2).eval()
    compiled = torch.compile(balancer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ROWS[0]), ROWS[0].sum())
    balancer.advance()
    assert balancer.latest.tolist() == [0, 0, 0]
    assert balancer.intervals == 0
