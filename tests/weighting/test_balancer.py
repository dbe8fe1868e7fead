from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scheme_lists import OF_LEVELS
from torch import Tensor, nn

from scalewise.weighting import (
    AVW,
    LossBalancer,
    Moments,
    Scheme,
    Static,
    Uncertainty,
)


def feed(balancer: LossBalancer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        balancer(torch.rand(balancer.num_groups, generator=generator) + 0.1)


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("name", OF_LEVELS)
def test_starts_as_the_plain_sum_in_value_and_gradient(name: str, n: int) -> None:
    losses = torch.rand(n, requires_grad=True)
    total = LossBalancer(n, name)(losses)
    torch.autograd.backward(total)
    assert total.shape == ()
    torch.testing.assert_close(total, losses.sum())
    torch.testing.assert_close(losses.grad, torch.ones(n))


@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("normalize", ["mean", "loss"])
@pytest.mark.parametrize("name", [name for name in OF_LEVELS if name != "uncertainty"])
def test_size_of_the_total_is_kept(name: str, normalize: Any, n: int) -> None:
    balancer = LossBalancer(n, name, interval=5, normalize=normalize)
    feed(balancer, 40)
    weights, mean = balancer.weights, balancer.statistics.mean
    assert bool((weights >= 0).all())
    if normalize == "mean":
        assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    else:
        assert float((weights * mean).sum()) == pytest.approx(float(mean.sum()), rel=1e-5)
    if n == 1:
        assert float(weights) == pytest.approx(1)


def test_gradient_is_the_weights_and_none_flows_into_them() -> None:
    balancer = LossBalancer(3, Static([1, 2, 3]))
    losses = torch.rand(3, requires_grad=True)
    torch.autograd.backward(balancer(losses))
    torch.testing.assert_close(losses.grad, torch.tensor([0.5, 1.0, 1.5]))
    assert not balancer.weights.requires_grad
    assert not balancer.block.requires_grad


def test_accepts_a_sequence_of_scalars() -> None:
    balancer = LossBalancer(3, Static([1, 2, 3]), interval=2)
    losses = [torch.tensor(float(i + 1), requires_grad=True) for i in range(3)]
    total = balancer(losses)
    torch.autograd.backward(total)
    assert float(total.detach()) == pytest.approx(0.5 + 2 + 4.5)
    assert [float(loss.grad) for loss in losses if loss.grad is not None] == [0.5, 1.0, 1.5]
    balancer(tuple(losses))
    assert balancer.statistics.mean.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32_or_better(dtype: torch.dtype) -> None:
    balancer = LossBalancer(2, Static([1.003, 0.997]))
    losses = torch.ones(2, dtype=dtype, requires_grad=True)
    total = balancer(losses)
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    first = balancer(torch.tensor([1.0, 0.0], dtype=dtype))
    assert float(first) == pytest.approx(1.003, abs=1e-6)
    torch.autograd.backward(total)
    assert losses.grad is not None
    assert losses.grad.dtype == dtype


def test_autocast_does_not_round_the_weights() -> None:
    balancer = LossBalancer(2, Static([1.003, 0.997]))
    with torch.autocast("cpu", torch.bfloat16):
        total = balancer(torch.tensor([1.0, 0.0]))
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(1.003, abs=1e-6)


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_casting_the_model_leaves_the_balancer_exact(cast: Callable[[nn.Module], Any]) -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "balancer": LossBalancer(2, "rlo", 3)})
    balancer = model["balancer"]
    assert isinstance(balancer, LossBalancer)
    feed(balancer, 10)
    before = copy.deepcopy(balancer.state_dict())
    cast(model)
    assert all(torch.equal(v, before[k]) for k, v in balancer.state_dict().items())
    feed(balancer, 10)


@pytest.mark.parametrize("name", OF_LEVELS)
@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
def test_evaluation_weighs_and_changes_nothing(name: str, mode: str) -> None:
    balancer = LossBalancer(3, name, interval=4)
    feed(balancer, 10)
    before = copy.deepcopy(balancer.state_dict())
    losses = torch.tensor([1.0, 2.0, 3.0])
    expected = balancer.weights @ losses
    if mode == "eval":
        totals = [balancer.eval()(losses) for _ in range(20)]
    else:
        with torch.no_grad() if mode == "no_grad" else torch.inference_mode():
            totals = [balancer(losses) for _ in range(20)]
    torch.testing.assert_close(torch.stack(totals), expected.expand(20))
    after = balancer.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_weights_stay_put_inside_an_accumulation_window() -> None:
    balancer = LossBalancer(3, "random", interval=2, accumulate=3)
    seen = []
    for _ in range(18):
        seen.append(balancer.weights.tolist())
        feed(balancer, 1)
    windows = [seen[i : i + 6] for i in range(0, 18, 6)]
    assert all(row == window[0] for window in windows for row in window)
    assert windows[0][0] != windows[1][0] != windows[2][0]
    assert balancer.intervals == 3


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_backward_after_the_update_uses_the_weights_of_the_forward(accumulate: int) -> None:
    balancer = LossBalancer(3, "random", interval=1, accumulate=accumulate)
    for _ in range(3):
        weights = balancer.weights.clone()
        losses = torch.rand(accumulate, 3, requires_grad=True)
        total = torch.stack([balancer(row) for row in losses]).sum()
        assert not torch.equal(balancer.weights, weights)
        torch.autograd.backward(total)
        torch.testing.assert_close(losses.grad, weights.expand(accumulate, 3))


def test_weights_keep_their_storage() -> None:
    balancer = LossBalancer(3, "random", interval=1)
    address = balancer.weights.data_ptr()
    feed(balancer, 5)
    assert balancer.weights.data_ptr() == address


def test_memory_does_not_depend_on_the_interval() -> None:
    def size(interval: int) -> int:
        balancer = LossBalancer(5, "rlo", interval)
        feed(balancer, 300)
        return sum(b.numel() * b.element_size() for b in balancer.buffers())

    assert size(10) == size(100_000)


def test_equal_weights_stay_one_to_the_bit_when_the_loss_is_kept() -> None:
    balancer = LossBalancer(5, "equal", interval=3, normalize="loss")
    feed(balancer, 30)
    assert balancer.intervals == 10
    assert balancer.weights.tolist() == [1.0] * 5


def test_long_intervals_are_reduced_in_blocks_without_loss() -> None:
    rows = torch.rand(1000, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    balancer = LossBalancer(2, interval=1000)
    for row in rows:
        balancer(row)
    torch.testing.assert_close(balancer.statistics.mean, rows.mean(0))
    torch.testing.assert_close(balancer.statistics.variance, rows.var(0))


def test_a_function_is_a_scheme() -> None:
    def by_mean(current: Moments, previous: Moments) -> Tensor:
        return current.mean

    balancer = LossBalancer(2, by_mean, interval=2, normalize="mean")
    for _ in range(2):
        balancer(torch.tensor([1.0, 3.0]))
    assert balancer.weights.tolist() == [0.5, 1.5]
    assert balancer.scheme.name == "by_mean"


@pytest.mark.parametrize("bad", [[torch.nan, 1.0], [torch.inf, 1.0], [-1.0, 2.0], [0.0, 0.0]])
def test_an_unusable_proposal_keeps_the_old_weights_and_is_counted(bad: list[float]) -> None:
    proposals = [[0.5, 1.5], bad, [1.5, 0.5]]

    def scripted(current: Moments, previous: Moments) -> Tensor:
        return torch.tensor(proposals.pop(0))

    balancer = LossBalancer(2, scripted, interval=1, normalize="mean")
    seen = []
    for _ in range(3):
        feed(balancer, 1)
        seen.append(balancer.weights.tolist())
    assert seen == [[0.5, 1.5], [0.5, 1.5], [1.5, 0.5]]
    assert int(balancer.rejected) == 1


def test_static_acts_from_the_first_step_and_only_ratios_matter() -> None:
    balancer = LossBalancer(3, Static([2, 4, 6]), interval=5, normalize="mean")
    assert balancer.weights.tolist() == [0.5, 1.0, 1.5]
    feed(balancer, 10)
    assert balancer.weights.tolist() == [0.5, 1.0, 1.5]


def test_uncertainty_follows_its_formula_and_learns() -> None:
    balancer = LossBalancer(2, "uncertainty", interval=10)
    scheme = balancer.scheme
    assert isinstance(scheme, Uncertainty)
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.1)
    levels = torch.tensor([4.0, 0.25])
    for _ in range(300):
        optimizer.zero_grad()
        total = balancer(levels)
        s = scheme.log_variance.detach()
        torch.testing.assert_close(total.detach(), ((-s).exp() * levels + s).sum())
        torch.autograd.backward(total)
        optimizer.step()
    # The minimum of exp(-s) l + s is at s = ln l.
    torch.testing.assert_close(scheme.log_variance.detach(), levels.log(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(balancer.weights, 1 / levels, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("losses", "match"),
    [
        (torch.rand(3), r"5 groups .*shape \(3,\)"),
        (torch.rand(1, 5), r"5 groups .*shape \(1, 5\)"),
        (torch.tensor(1.0), r"5 groups .*shape \(\)"),
        ([torch.tensor(1.0)] * 4, "5 groups .*4 losses"),
        ([torch.tensor([1.0])] * 5, r"group 0 is a tensor of shape \(1,\)"),
        ([torch.tensor(1.0)] * 4 + [1.0], "group 4 is a float"),
        (torch.rand(5, device="meta"), "the losses are on meta, the balancer on cpu"),
    ],
)
def test_wrong_losses_are_refused(losses: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LossBalancer(5)(losses)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"normalize": "sum"}, "one of 'auto', 'mean', 'loss' by level, got 'sum'"),
        ({"guard": 1.0}, "above 1, or None"),
        ({"scheme": "awv"}, "unknown scheme 'awv'; did you mean 'avw'"),
        ({"scheme": "static"}, r"pass Static\(\.\.\.\)"),
        ({"scheme": Static([1, 2])}, "2 static weights for 3 groups"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LossBalancer(**{"groups": 3, **arguments})


@pytest.mark.parametrize("spec", [AVW, 3, nn.Linear(1, 1)])
def test_things_that_are_no_scheme_are_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match=r"pass an instance|a scheme is a name"):
        LossBalancer(3, spec)


@pytest.mark.parametrize("weights", [[], [1.0, -1.0], [0.0, 0.0], [torch.nan, 1.0], [[1.0, 2.0]]])
def test_unusable_static_weights_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="static weights must be"):
        Static(weights)


def test_a_scheme_serves_one_balancer() -> None:
    scheme = AVW()
    LossBalancer(3, scheme)
    with pytest.raises(ValueError, match="already serves"):
        LossBalancer(3, scheme)


def test_a_proposal_of_the_wrong_shape_is_refused() -> None:
    balancer = LossBalancer(3, lambda current, previous: torch.ones(2), interval=1)
    with pytest.raises(ValueError, match=r"shape \(2,\) for 3 groups"):
        feed(balancer, 1)


def test_a_scheme_of_ones_own_can_keep_state() -> None:
    class Rising(Scheme):
        calls: Tensor

        def build(self, num_groups: int, seed: int) -> None:
            self.register_buffer("calls", torch.zeros(()))

        def propose(self, current: Moments, previous: Moments) -> Tensor:
            self.calls += 1
            return torch.stack((torch.ones(()), self.calls))

    balancer = LossBalancer(2, Rising(), interval=1, normalize="mean")
    feed(balancer, 3)
    assert balancer.weights.tolist() == [0.5, 1.5]
    assert balancer.scheme.name == "rising"


def test_the_last_losses_are_those_of_the_last_recorded_call() -> None:
    balancer = LossBalancer(2, "equal", interval=3)
    assert balancer.last_losses.tolist() == [0, 0]
    for step in range(130):  # more than one block
        balancer(torch.tensor([step, 2.0 * step]))
        assert balancer.last_losses.tolist() == [step, 2 * step]
    balancer.eval()(torch.tensor([7.0, 7.0]))
    assert balancer.last_losses.tolist() == [129, 258]
    assert balancer.calls == 130
