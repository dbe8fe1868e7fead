"""The balancer on a GPU: no waiting, the same draws as on the CPU, capturing and moving it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from waiting import no_waits

from scalewise.weighting import LossBalancer, scheme_names

pytestmark = pytest.mark.cuda
OF_POSITIVES = ("effective", "loss", "share")
NAMES = [name for name in scheme_names() if name not in ("static", *OF_POSITIVES)]


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_interval_ends_never_wait(name: str, device: torch.device) -> None:
    balancer = LossBalancer(3, name, 5).to(device)
    rows = [*torch.rand(30, 3, device=device, requires_grad=True).unbind(0)]
    with no_waits(device):
        for row in rows:
            torch.autograd.backward(balancer(row), retain_graph=True)
    assert balancer.intervals == 6


@pytest.mark.parametrize("name", [n for n in [*NAMES, *OF_POSITIVES] if n != "uncertainty"])
def test_groups_of_positives_never_wait(name: str, device: torch.device) -> None:
    balancer = LossBalancer(3, name, 5, by="class", objects=[9, 4, 1]).to(device)
    rows = [*torch.rand(30, 4, device=device, requires_grad=True).unbind(0)]
    positives = torch.tensor([5.0, 2.0, 0.0], device=device)
    with no_waits(device):
        for row in rows:
            torch.autograd.backward(balancer(row, positives), retain_graph=True)
    assert balancer.intervals == 6


@pytest.mark.parametrize("name", ["avw", "rlo"])
def test_it_draws_and_weighs_as_on_the_cpu(name: str, device: torch.device) -> None:
    rows = torch.rand(60, 3) + 0.1
    cpu, gpu = LossBalancer(3, name, 5), LossBalancer(3, name, 5).to(device)
    for row in rows:
        cpu(row)
        gpu(row.to(device))
    torch.testing.assert_close(gpu.weights.cpu(), cpu.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["avw", "rlo"])
def test_its_state_goes_to_the_device_and_back(name: str, device: torch.device) -> None:
    rows = torch.rand(60, 3) + 0.1
    cpu: Any = LossBalancer(3, name, 7)
    for row in rows[:20]:
        cpu(row)
    gpu: Any = LossBalancer(3, name, 7).to(device)
    gpu.load_state_dict(copy.deepcopy(cpu.state_dict()))
    for row in rows[20:40]:
        cpu(row)
        gpu(row.to(device))
    back: Any = LossBalancer(3, name, 7)
    back.load_state_dict(gpu.state_dict())
    for key, value in gpu.state_dict().items():
        assert torch.equal(back.state_dict()[key], value.cpu()), key
    for row in rows[40:]:
        cpu(row)
        back(row)
    torch.testing.assert_close(back.weights, cpu.weights, rtol=1e-4, atol=1e-5)
    if name == "rlo":
        assert int(back.scheme.action) == int(cpu.scheme.action)


def test_a_captured_call_follows_the_weights(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA captures graphs")
    rows = torch.rand(40, 3, device=device) + 0.1
    eager = LossBalancer(3, "rlo", 5).to(device)
    expected = torch.stack([eager(row) for row in rows])

    balancer = LossBalancer(3, "rlo", 5).to(device)
    losses = torch.zeros(3, device=device, requires_grad=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = balancer(losses)
        (gradient,) = torch.autograd.grad(total, losses)
    totals: list[Tensor] = []
    for row in rows:
        losses.detach().copy_(row)
        graph.replay()
        totals.append(total.detach().clone())
        torch.testing.assert_close(gradient, balancer.weights)
        balancer.advance()
    torch.testing.assert_close(torch.stack(totals), expected)
    assert balancer.intervals == 8
