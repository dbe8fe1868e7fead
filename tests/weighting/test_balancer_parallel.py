from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import WORLD, run_ranks
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from scalewise.weighting import LossBalancer

OF_LEVELS = ("avw", "rlo", "random")
OF_POSITIVES = ("share by class", "avw by class", "loss by class", "rlo by class")
NAMES = (*OF_LEVELS, *OF_POSITIVES)
ROWS = torch.rand(48, WORLD, 3, generator=torch.Generator().manual_seed(4)) + 0.05
ROWS[5, 1, 2] = torch.nan
POSITIVES = torch.randint(0, 4, ROWS.shape, generator=torch.Generator().manual_seed(5))
POSITIVES[:, 0, 0] = 0  # only the second rank has class 0


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
    """Weights and statistics of balancers that are not wrapped."""
    trace: dict[str, Any] = {}
    for name in NAMES:
        scheme, _, by = name.partition(" by ")
        kept: Any = "positives" if by else "loss"
        balancer = LossBalancer(3, scheme, 4, kept, accumulate=2, seed=1, by=by or "level")
        weights = []
        for rows, positives in zip(ROWS, POSITIVES, strict=True):
            balancer(rows[rank], positives[rank])
            weights.append(balancer.weights.clone())
        trace[name] = torch.stack(weights)
        trace[f"{name} mean"] = balancer.statistics.mean
        trace[f"{name} variance"] = balancer.statistics.variance
        trace[f"{name} skipped"] = balancer.skipped
        trace[f"{name} count"] = balancer.statistics.count
        trace[f"{name} positives"] = balancer.statistics.positives
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
    windows = first.view(-1, 8, 3)  # 4 optimizer steps of 2 calls; the last updates
    assert torch.equal(windows[:, :-1], windows[:, :1].expand(-1, 7, -1))


def test_statistics_are_those_of_all_ranks_together(ranks: list[dict[str, Any]]) -> None:
    last = ROWS[-8:].reshape(-1, 3)
    for rank in ranks:
        torch.testing.assert_close(rank["avw mean"], last.mean(0))
        torch.testing.assert_close(rank["avw variance"], last.var(0))
        assert rank["avw skipped"].tolist() == [0, 0, 1]


def test_statistics_of_positives_are_those_of_all_ranks_together(
    ranks: list[dict[str, Any]],
) -> None:
    rows, positives = ROWS[-8:].reshape(-1, 3), POSITIVES[-8:].reshape(-1, 3)
    for name in OF_POSITIVES:
        for rank in ranks:
            for group in range(3):
                kept = rows[:, group].isfinite()
                own, there = positives[kept, group], positives[kept, group] > 0
                values = torch.where(there, rows[kept, group], 0)
                share = (own / positives[kept].sum(1)).mean()
                assert float(rank[f"{name} positives"][group]) == float(own.sum())
                assert float(rank[f"{name} count"][group]) == float(there.sum())
                torch.testing.assert_close(rank[f"{name} mean"][group], values.mean() / share)
                variance = values.var() / share.square()
                torch.testing.assert_close(rank[f"{name} variance"][group], variance)
            assert rank[f"{name} skipped"].tolist() == [0, 0, 1]


def test_shares_are_pooled_over_ranks_and_intervals(ranks: list[dict[str, Any]]) -> None:
    counted = torch.where(ROWS.isfinite(), POSITIVES, 0).view(6, -1, 3).sum(1).float()
    pooled = (counted * 0.9 ** torch.arange(5.0, -1, -1)[:, None]).sum(0)
    rare = pooled**-0.5
    weights = rare * pooled.sum() / (rare * pooled).sum()
    finite, there = ROWS.isfinite(), ROWS.isfinite() & (POSITIVES > 0)
    shares = [part.view(6, -1, 3).sum(1).float() for part in (there, finite)]
    aged = [(part * 0.9 ** torch.arange(5.0, -1, -1)[:, None]).sum(0) for part in shares]
    presence = 1 - (1 - aged[0] / aged[1]) ** 4  # two ranks, two calls to a step
    weights = 1 + presence * (weights - 1)
    expected = weights * pooled.sum() / (weights * pooled).sum()
    for rank in ranks:
        torch.testing.assert_close(rank["share by class"][-1], expected)


def test_one_reduction_per_interval(ranks: list[dict[str, Any]]) -> None:
    assert [rank["reductions"] for rank in ranks] == [len(NAMES) * len(ROWS) // 8] * 2


def test_inside_a_wrapper_ranks_agree_but_buffers_should_not_be_broadcast(
    ranks: list[dict[str, Any]],
) -> None:
    """With a broadcast, rank 0's records replace those of the other ranks."""
    for mode in ("broadcast", "kept"):
        assert torch.equal(ranks[0][mode]["weights"], ranks[1][mode]["weights"])
    last = ROWS[-4:]
    torch.testing.assert_close(ranks[0]["kept"]["mean"], last.reshape(-1, 3).mean(0))
    seen = torch.cat((last[:, 0], last[:3, 0], last[3:, 1]))
    torch.testing.assert_close(ranks[0]["broadcast"]["mean"], seen.mean(0))
