"""Statistics of the losses per positive: what they mean, and who is told when they are missing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from scalewise.weighting import AVW, RLO, CoV, Equal, LossBalancer

COUNTS = torch.tensor([[4, 2, 0], [1, 6, 3], [5, 5, 1], [2, 0, 1]])


def test_a_level_whose_objects_cost_the_same_is_calm_however_many_there_are() -> None:
    """Each object of level i costs c_i, and the detector divides by the number of all objects."""
    cost = torch.tensor([1.0, 2.0, 8.0])
    losses = COUNTS * cost / COUNTS.sum(1, keepdim=True)
    balancer = LossBalancer(3, AVW(per_positive=True), interval=4)
    for row, positives in zip(losses, COUNTS, strict=True):
        balancer(row, positives)
    shared = balancer.statistics.per_positive
    assert shared is not None
    torch.testing.assert_close(shared.mean, cost)
    assert shared.variance.tolist() == [0, 0, 0]
    assert shared.count.tolist() == [4, 3, 3]
    torch.testing.assert_close(balancer.statistics.mean, losses.mean(0))
    assert (balancer.statistics.variance > 0).all()
    assert balancer.skipped.tolist() == [0, 0, 0]


def test_a_level_without_objects_keeps_weight_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for scheme in (AVW(per_positive=True, strength=1.0), CoV(per_positive=True)):
        balancer = LossBalancer(3, scheme, interval=5, normalize="mean")
        for _ in range(40):
            losses = torch.rand(3, generator=generator) * torch.tensor([1, 1, 1e-6])
            balancer(losses, torch.tensor([3, 5, 0]))
        assert float(balancer.weights[2]) == pytest.approx(1)
        assert float(balancer.weights[0]) != pytest.approx(1, abs=1e-3)


def test_the_loss_is_kept_by_the_losses_themselves() -> None:
    """normalize="loss" looks at what is trained on, not at the losses per positive."""
    generator = torch.Generator().manual_seed(1)
    balancer = LossBalancer(3, CoV(per_positive=True), interval=6, normalize="loss")
    rows = torch.rand(60, 3, generator=generator) * torch.tensor([5.0, 1.0, 0.2])
    counts = torch.randint(0, 9, (60, 3), generator=generator)
    for row, positives in zip(rows, counts, strict=True):
        balancer(row, positives)
    mean = rows[-6:].mean(0)
    torch.testing.assert_close((balancer.weights * mean).sum(), mean.sum())
    assert float(balancer.weights.std()) > 0.05


@pytest.mark.parametrize(
    ("positives", "words"),
    [
        (None, r"balancer\(losses, positives\)"),
        (torch.ones(2), r"of shape \(2,\)"),
        (torch.ones(3, device="meta"), "on meta"),
    ],
)
def test_missing_or_odd_positives_are_refused(positives: Tensor | None, words: str) -> None:
    balancer = LossBalancer(3, "avw:per_positive=true", interval=2)
    with pytest.raises(ValueError, match=words):
        balancer(torch.ones(3), positives)
    with torch.no_grad():
        assert float(balancer(torch.ones(3))) == 3  # nothing is recorded, so nothing is missing


def test_who_asks_for_positives() -> None:
    assert not RLO().per_positive
    assert RLO([Equal(), AVW(per_positive=True)]).per_positive
    scheme: Any = LossBalancer(
        2, "rlo:actions=equal+avw(invert=true:per_positive=true)+cov(per_positive=true)"
    ).scheme
    assert scheme.action_names == ("equal", "avw-decline-invert-per-positive", "cov-per-positive")
    assert scheme.per_positive


def test_resumed_mid_interval_it_goes_on_as_it_would_have() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(50, 3, generator=generator)
    counts = torch.randint(0, 5, (50, 3), generator=generator)
    whole = LossBalancer(3, "avw:per_positive=true", interval=8)
    for step, (row, positives) in enumerate(zip(rows, counts, strict=True)):
        if step == 21:
            saved = copy.deepcopy(whole.state_dict())
        whole(row, positives)
    resumed = LossBalancer(3, "avw:per_positive=true", interval=8)
    resumed.load_state_dict(saved)
    for row, positives in zip(rows[21:], counts[21:], strict=True):
        resumed(row, positives)
    assert torch.equal(resumed.weights, whole.weights)
    with pytest.raises(ValueError, match="avw-decline-per-positive"):
        LossBalancer(3, "avw", interval=8).load_state_dict(saved)


def test_compiled_it_learns_what_it_learns_eagerly() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(30, 3, generator=generator)
    counts = torch.randint(0, 5, (30, 3), generator=generator)
    eager = LossBalancer(3, "cov:per_positive=true", interval=4)
    balancer = LossBalancer(3, "cov:per_positive=true", interval=4)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, p: balancer(x * 1.0, p), fullgraph=True, backend="aot_eager")
    for row, positives in zip(rows, counts, strict=True):
        losses = row.clone().requires_grad_()
        torch.autograd.backward(compiled(losses, positives))
        balancer.advance()
        eager(row, positives)
    torch.testing.assert_close(balancer.weights, eager.weights)
    assert float(eager.weights.std()) > 0.01
