from __future__ import annotations

import torch

from scalewise.weighting import LossBalancer
from scalewise.weighting.guard import sift


def dense_losses(steps: int, seed: int = 0) -> torch.Tensor:
    """Uneven level losses [steps, 4] of a dense detector, with a sum near 0.24."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.12, 0.06, 0.03, 0.01])
    return scale * (1 + 0.2 * torch.rand(steps, 4, generator=generator))


def test_batches_without_positives_are_caught_from_the_first_interval() -> None:
    losses = dense_losses(30)
    losses[[7, 19]] *= 11.9 / 0.22
    balancer = LossBalancer(4, interval=30)
    calm = LossBalancer(4, interval=28)
    for step, row in enumerate(losses):
        balancer(row)
        if step not in (7, 19):
            calm(row)
    assert balancer.outliers.tolist() == [2, 2, 2, 2]
    torch.testing.assert_close(balancer.statistics.variance, calm.statistics.variance)
    torch.testing.assert_close(balancer.statistics.mean, calm.statistics.mean)


def test_the_total_loss_is_never_altered() -> None:
    losses = dense_losses(20)
    losses[15] *= 100
    losses[16, 2] = torch.nan
    balancer = LossBalancer(4, interval=100)
    totals = torch.stack([balancer(row) for row in losses])
    torch.testing.assert_close(totals, losses.sum(1), equal_nan=True)


def test_a_rare_level_keeps_its_few_informative_steps() -> None:
    losses = dense_losses(100)
    losses[:, 3] = 1e-5
    losses[::20, 3] = 0.5  # 5 of 100 steps; the sum only triples
    balancer = LossBalancer(4, interval=100)
    for row in losses:
        balancer(row)
    assert balancer.outliers.tolist() == [0, 0, 0, 0]
    assert float(balancer.statistics.mean[3]) > 0.02


def test_with_interval_one_earlier_steps_are_the_reference() -> None:
    losses = dense_losses(50)
    losses[40] *= 54
    balancer = LossBalancer(4, scheme="equal", interval=1)
    for row in losses:
        balancer(row)
    assert balancer.outliers.tolist() == [1, 1, 1, 1]


def test_a_lasting_jump_is_accepted_in_time() -> None:
    losses = torch.cat((dense_losses(128), 50 * dense_losses(128)))
    balancer = LossBalancer(4, interval=16)
    for row in losses:
        balancer(row)
    assert balancer.statistics.count.tolist() == [16.0] * 4


def test_silence_guards_nothing() -> None:
    losses = torch.zeros(10, 2)
    losses[9] = 5.0
    assert not sift(losses, 10, 10.0).outlier.any()


def test_no_guard_keeps_every_finite_value() -> None:
    losses = dense_losses(10)
    losses[9] *= 1000
    losses[3, 1] = torch.inf
    sifted = sift(losses, 4, None)
    assert not sifted.outlier.any()
    assert bool(sifted.finite.all())
    assert int((~sift(losses, 10, None).finite).sum()) == 1


def test_a_level_that_is_always_broken_does_not_disarm_the_guard() -> None:
    losses = dense_losses(30)
    losses[:, 1] = torch.nan
    losses[20] *= 54
    balancer = LossBalancer(4, interval=30)
    for row in losses:
        balancer(row)
    assert balancer.outliers.tolist() == [1, 0, 1, 1]
    assert balancer.skipped.tolist() == [0, 30, 0, 0]
    assert bool(balancer.weights.isfinite().all())
