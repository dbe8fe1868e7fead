from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import WORLD, run_ranks
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from scalewise.weighting import LossBalancer

NAMES = ("avw", "rlo", "random", "avw:per_positive=true")
ROWS = torch.rand(48, WORLD, 3, generator=torch.Generator().manual_seed(4)) + 0.05
ROWS[5, 1, 2] = torch.nan
POSITIVES = torch.randint(0, 4, ROWS.shape, generator=torch.Generator().manual_seed(5))


pytestmark = pytest.mark.xdist_group("ranks")


class Detector(nn.Module):
    """Three level losses from one parameter, with the balancer inside the wrapped module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.balancer = LossBalancer(3, "rlo", 4, seed=1)

    def forward(self, losses: Tensor) -> Any:
        return self.balancer(self.scale * losses)


def merged(rank: int) -> dict[str, Any]:
    """Balancers outside of any wrapper: exact statistics of all ranks."""
    trace: dict[str, Any] = {}
    for name in NAMES:
        balancer = LossBalancer(3, name, 4, accumulate=2, seed=1)
        weights = []
        for rows, positives in zip(ROWS, POSITIVES, strict=True):
            balancer(rows[rank], positives[rank])
            weights.append(balancer.weights.clone())
        trace[name] = torch.stack(weights)
        trace[f"{name} mean"] = balancer.statistics.mean
        trace[f"{name} variance"] = balancer.statistics.variance
        trace[f"{name} skipped"] = balancer.skipped
        shared = balancer.statistics.per_positive
        if shared is not None:
            trace[f"{name} shared"] = torch.stack((shared.count, shared.mean, shared.variance))
    return trace


def wrapped(rank: int, broadcast: bool) -> dict[str, Any]:
    model = DistributedDataParallel(Detector(), broadcast_buffers=broadcast)
    balancer = model.module.balancer
    weights = []
    for rows in ROWS[8:]:
        torch.autograd.backward(model(rows[rank]))
        weights.append(balancer.weights.clone())
    return {"weights": torch.stack(weights), "mean": balancer.statistics.mean}


def work(rank: int) -> dict[str, Any]:
    calls = []
    original = distributed.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    distributed.all_reduce = counted
    trace = merged(rank)
    distributed.all_reduce = original
    trace["reductions"] = len(calls)
    trace["broadcast"] = wrapped(rank, True)
    trace["kept"] = wrapped(rank, False)
    return trace


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(work)


@pytest.mark.parametrize("name", NAMES)
def test_ranks_hold_the_same_weights_at_every_call(ranks: list[dict[str, Any]], name: str) -> None:
    first, second = ranks[0][name], ranks[1][name]
    assert torch.equal(first, second)
    assert len(first.unique(dim=0)) > 2
    windows = first.view(-1, 8, 3)  # 4 optimizer steps of 2 calls; the update comes with the last
    assert torch.equal(windows[:, :-1], windows[:, :1].expand(-1, 7, -1))


def test_statistics_are_those_of_all_ranks_together(ranks: list[dict[str, Any]]) -> None:
    last = ROWS[-8:].reshape(-1, 3)
    for rank in ranks:
        torch.testing.assert_close(rank["avw mean"], last.mean(0))
        torch.testing.assert_close(rank["avw variance"], last.var(0))
        assert rank["avw skipped"].tolist() == [0, 0, 1]


def test_statistics_per_positive_are_those_of_all_ranks_together(
    ranks: list[dict[str, Any]],
) -> None:
    losses, positives = ROWS[-8:].reshape(-1, 3), POSITIVES[-8:].reshape(-1, 3)
    shared = losses * positives.sum(1, keepdim=True) / positives
    for rank in ranks:
        for level, (count, mean, variance) in enumerate(rank["avw:per_positive=true shared"].T):
            values = shared[positives[:, level] > 0, level]
            assert float(count) == len(values)
            torch.testing.assert_close(mean, values.mean())
            torch.testing.assert_close(variance, values.var())


def test_one_reduction_per_interval(ranks: list[dict[str, Any]]) -> None:
    assert [rank["reductions"] for rank in ranks] == [len(NAMES) * len(ROWS) // 8] * 2


def test_inside_a_wrapper_ranks_agree_but_buffers_should_not_be_broadcast(
    ranks: list[dict[str, Any]],
) -> None:
    """A broadcast replaces what the other ranks recorded by rank 0's rows."""
    for mode in ("broadcast", "kept"):
        assert torch.equal(ranks[0][mode]["weights"], ranks[1][mode]["weights"])
    last = ROWS[-4:]
    torch.testing.assert_close(ranks[0]["kept"]["mean"], last.reshape(-1, 3).mean(0))
    seen = torch.cat((last[:, 0], last[:3, 0], last[3:, 1]))
    torch.testing.assert_close(ranks[0]["broadcast"]["mean"], seen.mean(0))
