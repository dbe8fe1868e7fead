from __future__ import annotations

import torch
from torch import Tensor

from scalewise.weighting import AVW, LossBalancer, Permuted


def weights(scheme: AVW, seed: int) -> Tensor:
    """Weights [8, 5] after each of 8 intervals of 4 steps."""
    balancer = LossBalancer(5, scheme, interval=4, normalize="mean", seed=seed)
    draw = torch.Generator().manual_seed(1)
    rows = torch.rand(32, 5, generator=draw) * torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1])
    seen = []
    for row in rows:
        balancer(row.requires_grad_())
        seen.append(balancer.weights.clone())
    return torch.stack(seen)[3::4]


def test_it_hands_avws_weights_to_other_levels() -> None:
    own = weights(AVW("dispersion"), 0)
    orders = set()
    for seed in range(20):
        scheme = Permuted("dispersion")
        found = weights(scheme, seed)
        torch.testing.assert_close(found, own[:, scheme.order])
        orders.add(tuple(scheme.order.tolist()))
    assert len(orders) > 15
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)


def test_its_order_is_part_of_the_state() -> None:
    one, other = Permuted(invert=True), Permuted(invert=True)
    first, second = LossBalancer(5, one, seed=0), LossBalancer(5, other, seed=1)
    assert not torch.equal(one.order, other.order)
    second.load_state_dict(first.state_dict())
    assert torch.equal(one.order, other.order)


def test_it_is_known_by_name() -> None:
    assert LossBalancer(2, "permuted:invert=true").scheme.name == "permuted-decline-invert"
