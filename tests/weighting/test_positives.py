"""Weights of groups of positives: against a plain twin, in closed form, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from positives_reference import (
    Propose,
    RefPositives,
    adaptive_variance,
    by_loss,
    effective,
    equal,
    share,
)
from scheme_lists import OF_POSITIVES, ONLY_POSITIVES
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from scalewise.weighting import Given, LossBalancer, Moments, Share, scheme_from_words

OBJECTS = (5000.0, 300.0, 20.0, 0.0, 1.0, 70.0)

SCHEMES: dict[str, Callable[[int], Propose]] = {
    "equal": lambda n: equal,
    "share": lambda n: share(0.5),
    "share:power=1": lambda n: share(1.0),
    "share:power=0.25": lambda n: share(0.25),
    "effective": lambda n: effective(OBJECTS[:n], 0.999),
    "loss": lambda n: by_loss(1.0),
    "loss:power=-0.5": lambda n: by_loss(-0.5),
    "avw": lambda n: adaptive_variance(),
    "avw:signal=decline": lambda n: adaptive_variance("decline"),
    "avw:signal=dispersion:temperature=0.5:strength=0.7": lambda n: adaptive_variance(
        "dispersion", 0.5, 0.7
    ),
    "avw:signal=magnitude:temperature=3:invert=true": lambda n: adaptive_variance(
        "magnitude", 3.0, 1.0, True
    ),
}
FAULTS = ["explosion", "nan", "infinite", "free", "constant", "absent", "late", "stray", "empty"]


def trace(
    seed: int, steps: int, n: int, faults: list[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Losses float32 and positives [steps, n]: the later a group, the rarer, with faults."""
    rng = np.random.default_rng(seed)
    positives = rng.poisson(30.0 / 4.0 ** np.arange(n), (steps, n))
    fall = np.exp(-rng.uniform(0, 0.01, n)[None] * np.arange(steps)[:, None])
    cost = rng.uniform(0.1, 3, n) * fall * np.exp(rng.normal(0, rng.uniform(0.05, 0.8, n), (1, n)))
    cost = cost * np.exp(rng.normal(0, 0.3, (steps, n)))
    group = rng.integers(n)
    if "constant" in faults:
        cost[:, group] = 0.7
    if "free" in faults:
        cost[:, group] = 0.0
    if "absent" in faults:
        positives[:, rng.integers(n)] = 0
    if "late" in faults:
        positives[: steps // 2, rng.integers(n)] = 0
    if "empty" in faults:
        positives[rng.random(steps) < 0.3] = 0
    losses = positives * cost / positives.sum(1, keepdims=True).clip(1)
    if "stray" in faults:
        losses[:, group] += 1e-3  # where it has positives or not
    if "explosion" in faults:
        losses[rng.random(steps) < 0.05] *= 200
    if "nan" in faults:
        losses[rng.random(steps) < 0.2, group] = np.nan
    if "infinite" in faults:
        losses[rng.random((steps, n)) < 0.05] = np.inf
    return losses.astype(np.float32), positives


def feed(
    balancer: LossBalancer, steps: int, seed: int = 0, start: int = 0, fewest: int = 0
) -> None:
    """Train on a trace; with `fewest` above 0 every group is in every step."""
    losses, positives = trace(seed, start + steps, balancer.num_groups, [])
    positives = positives.clip(fewest)
    for row, count in zip(losses[start:], positives[start:], strict=True):
        balancer(torch.from_numpy(row), torch.from_numpy(count))


def of_class(names: int | list[str], scheme: Any, *args: Any, **settings: Any) -> LossBalancer:
    """By class; without a word on it the positives' mean weight stays 1."""
    n = names if isinstance(names, int) else len(names)
    settings = {"objects": [OBJECTS[g % 6] for g in range(n)], "by": "class", **settings}
    if len(args) < 2:
        settings.setdefault("normalize", "positives")
    return LossBalancer(names, scheme, *args, **settings)


@pytest.mark.parametrize("words", list(SCHEMES))
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 3, 6]),
    interval=st.sampled_from([1, 7, 7, 150, "auto", "auto"]),
    accumulate=st.sampled_from([1, 1, 3]),
    normalize=st.sampled_from(["positives", "loss", "mean"]),
    clip=st.sampled_from([(0.25, 8.0), (0.0, math.inf), (0.9, 1.2)]),
    memory=st.sampled_from([0.9, 0.0, 0.5]),
    faults=st.lists(st.sampled_from(FAULTS), max_size=3, unique=True),
)
def test_same_weights_statistics_and_totals_as_the_twin(
    words: str,
    seed: int,
    n: int,
    interval: Any,
    accumulate: int,
    normalize: Any,
    clip: tuple[float, float],
    memory: float,
    faults: list[str],
) -> None:
    extra: dict[str, Any] = {"clip": clip, "memory": memory}
    balancer = of_class(n, words, interval, normalize, accumulate, **extra)
    propose = SCHEMES[words](n)
    initial = propose(*[RefPositives(n, equal, 1).last] * 2) if words == "effective" else None
    twin = RefPositives(n, propose, interval, normalize, accumulate, initial=initial, **extra)
    steps = 310 if interval == 150 else 160
    for losses, positives in zip(*trace(seed, steps, n, faults), strict=True):
        total = balancer(
            torch.from_numpy(np.append(losses, np.float32(0.5))), torch.tensor(positives)
        )
        expected = twin.step(losses.tolist(), positives.tolist(), 0.5)
        if np.isfinite(losses).all():
            assert float(total) == pytest.approx(expected, rel=2e-3)
        np.testing.assert_allclose(balancer.weights.numpy(), twin.weights, rtol=2e-3, atol=1e-4)
    assert balancer.intervals == len(twin.intervals[0])
    assert int(balancer.rejected) == 0
    found = balancer.statistics
    assert found.pooled is not None
    for one, other in ((found, twin.last), (found.pooled, twin.before)):
        for field in ("count", "mean", "variance", "positives", "presence"):
            np.testing.assert_allclose(
                getattr(one, field).numpy(),
                getattr(other, field),
                rtol=2e-3,
                atol=1e-30,  # where float32 runs out of digits
                err_msg=field,
            )
    if not twin.open:
        assert balancer.skipped.tolist() == twin.skipped
        assert balancer.outliers.tolist() == twin.outliers


def test_the_comparison_would_notice_a_wrong_rule() -> None:
    losses, positives = trace(0, 60, 3, [])

    def differs(**wrong: Any) -> bool:
        balancer = of_class(3, "share", 7)
        twin = RefPositives(3, wrong.pop("propose", share(0.5)), 7, **wrong)
        for row, count in zip(losses, positives, strict=True):
            balancer(torch.from_numpy(row), torch.from_numpy(count))
            twin.step(row.tolist(), count.tolist())
        return not np.allclose(balancer.weights.numpy(), twin.weights, rtol=2e-3)

    assert not differs()
    assert differs(propose=share(0.6))
    assert differs(memory=0.5)
    assert differs(normalize="mean")
    assert differs(clip=(0.8, 1.2))


COUNTS = torch.tensor([[4, 2, 0], [1, 6, 3], [5, 5, 1], [2, 0, 1]])


def test_objects_that_cost_the_same_have_one_mean_however_many_there_are() -> None:
    """Each object of group g costs c_g, and the detector divides by the number of all objects."""
    cost = torch.tensor([1.0, 2.0, 8.0])
    losses = COUNTS * cost / COUNTS.sum(1, keepdim=True)
    balancer = of_class(3, "avw", interval=4)
    for row, positives in zip(losses, COUNTS, strict=True):
        balancer(row, positives)
    found = balancer.statistics
    assert found.positives is not None
    torch.testing.assert_close(found.mean, cost)
    share = COUNTS / COUNTS.sum(1, keepdim=True)
    torch.testing.assert_close(found.variance, (cost * share).var(0) / share.mean(0).square())
    assert found.count.tolist() == [4, 3, 3]
    assert found.positives.tolist() == COUNTS.sum(0).tolist()
    # by their shares of the positives, they add up to the loss of all positives
    shares = COUNTS / COUNTS.sum(1, keepdim=True)
    torch.testing.assert_close((shares * found.mean).sum(1), losses.sum(1))
    assert balancer.skipped.tolist() == [0, 0, 0]


@pytest.mark.parametrize("normalize", ["positives", "loss", "mean"])
@pytest.mark.parametrize("name", ["share", "loss", "avw", "cov", "dwa", "inverse"])
def test_a_group_without_positives_weighs_one_and_is_no_part_of_the_normalisation(
    name: str, normalize: Any
) -> None:
    losses, positives = trace(1, 60, 3, [])
    with_it = of_class(4, name, 6, normalize)
    without = of_class(3, name, 6, normalize)
    for row, count in zip(losses, positives, strict=True):
        with_it(torch.from_numpy(np.append(row, row[:1])), torch.tensor([*count.tolist(), 0]))
        without(torch.from_numpy(row), torch.from_numpy(count))
        assert float(with_it.weights[3]) == 1
    torch.testing.assert_close(with_it.weights[:3], without.weights)
    assert float(without.weights.std()) > 0.01


@pytest.mark.parametrize("name", [n for n in OF_POSITIVES if n != "uncertainty"])
@pytest.mark.parametrize("normalize", ["positives", "loss", "mean"])
def test_what_is_to_be_kept_is_kept(name: str, normalize: Any) -> None:
    balancer = of_class(4, name, 5, normalize, clip=(0.0, math.inf))
    feed(balancer, 60)
    pooled = balancer.statistics.pooled
    assert pooled is not None
    assert pooled.positives is not None
    kept = {
        "positives": pooled.positives,
        "loss": pooled.positives * pooled.mean,
        "mean": torch.ones(4),
    }[str(normalize)]
    torch.testing.assert_close((kept * balancer.weights).sum(), kept.sum())
    assert bool((balancer.weights >= 0).all())


def test_with_power_one_every_group_has_the_same_total_weight() -> None:
    balancer = of_class(3, Share(power=1.0), 8, clip=(0.0, math.inf))
    feed(balancer, 40, fewest=1)
    pooled = balancer.statistics.pooled
    assert pooled is not None
    assert pooled.positives is not None
    totals = pooled.positives * balancer.weights
    torch.testing.assert_close(totals, totals.mean().expand(3))
    assert pooled.positives.tolist() == sorted(pooled.positives.tolist(), reverse=True)


@pytest.mark.parametrize("normalize", ["positives", "loss", "mean"])
@pytest.mark.parametrize("scheme", ["equal", "share:power=0", "loss:power=0"])
def test_equal_weights_stay_one_to_the_bit(scheme: str, normalize: Any) -> None:
    balancer = of_class(5, scheme, 3, normalize)
    losses, positives = trace(2, 60, 5, ["nan", "late"])
    for row, count in zip(losses, positives, strict=True):
        balancer(torch.from_numpy(row), torch.from_numpy(count))
        assert balancer.weights.tolist() == [1.0] * 5


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    low=st.floats(0.05, 1),
    high=st.floats(1, 20),
    normalize=st.sampled_from(["positives", "loss", "mean"]),
)
def test_no_two_weights_are_farther_apart_than_the_clip(
    seed: int, low: float, high: float, normalize: Any
) -> None:
    """The last factor is common to all, so the ratio of the limits bounds that of the weights."""
    balancer = of_class(5, "share:power=1", 4, normalize, clip=(low, high))
    losses, positives = trace(seed, 12, 5, [])
    for row, count in zip(losses, positives, strict=True):
        balancer(torch.from_numpy(row), torch.from_numpy(count))
    pooled = balancer.statistics.pooled
    assert pooled is not None
    weights = balancer.weights[pooled.count > 0]
    assert float(weights.max() / weights.min()) <= high / low * (1 + 1e-5)


def test_clip_by_hand() -> None:
    """Positives 96, 3 and 1: shares to the power -1 are cut at 0.5 and 4, then 3 / (1.5 + 4.5)."""
    balancer = of_class(3, "share:power=1", 1, clip=(0.5, 4.0))
    balancer(torch.tensor([0.96, 0.03, 0.01]), torch.tensor([96.0, 3.0, 1.0]))
    cut = torch.tensor([0.5, 4.0, 4.0])
    kept = torch.tensor([96.0, 3.0, 1.0])
    torch.testing.assert_close(balancer.weights, cut * 100 / (cut * kept).sum())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_group_that_is_seldom_there_leaves_one_by_so_much_less(accumulate: int) -> None:
    """In every fourth call; of windows of two calls, drawn alone, in 1 - (3/4)^2 = 7/16."""
    presence = {1: 1 / 4, 2: 7 / 16}[accumulate]
    balancer = of_class(2, "share:power=1", 40 // accumulate, "lift", accumulate)
    for step in range(40):
        there = step % 4 == 0
        balancer(torch.tensor([0.9, 0.1 * there]), torch.tensor([30, 2 * there]))
    share = 20 / (40 * 30 + 20)
    full = min(8.0, 0.5 / share)  # mean 1 over the positives: each group has half of their weight
    expected = torch.tensor([1.0, 1 + presence * (full - 1)])
    torch.testing.assert_close(balancer.weights, expected)


def test_a_group_keeps_its_moments_between_two_appearances() -> None:
    balancer = of_class(2, "loss", 1)
    balancer(torch.tensor([0.5, 2.0]), torch.tensor([1, 1]))
    first = balancer.statistics.pooled
    for _ in range(30):
        balancer(torch.tensor([1.0, 0.0]), torch.tensor([2, 0]))
    last = balancer.statistics.pooled
    assert first is not None
    assert last is not None
    assert float(first.mean[1]) == 4
    assert float(last.mean[1]) == pytest.approx(4, rel=1e-5)
    assert balancer.statistics.count.tolist() == [1, 0]
    assert float(balancer.weights[1] / balancer.weights[0]) > 1


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_a_loss_that_falls_steadily_is_calm_however_far_it_falls(memory: float) -> None:
    """By 0.1 a step, or with noise of 0.5: the variance of ten steps, not that of a hundred."""
    balancer = of_class(2, "avw", 10, memory=memory)
    for step in range(100):
        noise = 0.5 * (-1) ** step
        balancer(torch.tensor([20 - 0.1 * step, 9 + noise]) / 2, torch.tensor([1, 1]))
    pooled = balancer.statistics.pooled
    assert pooled is not None
    expected = torch.tensor([0.1**2 * 10 * 11 / 12, 0.5**2 * 10 / 9])
    torch.testing.assert_close(pooled.variance, expected, rtol=1e-3, atol=0)


def test_by_default_variance_weighs_in_proportion_to_the_deviation() -> None:
    balancer = of_class(3, "avw", 8, clip=(0.0, math.inf))
    feed(balancer, 64, fewest=1)
    pooled = balancer.statistics.pooled
    assert pooled is not None
    ratio = balancer.weights / pooled.variance.sqrt()
    torch.testing.assert_close(ratio, ratio.mean().expand(3), rtol=1e-4, atol=0)


def test_a_group_that_never_comes_back_does_not_stop_the_others() -> None:
    balancer = of_class(2, "share:power=1", 1)
    balancer(torch.tensor([0.5, 0.5]), torch.tensor([1, 1]))
    for _ in range(1100):
        balancer(torch.tensor([1.0, 0.0]), torch.tensor([2, 0]))
    assert int(balancer.rejected) == 0


@pytest.mark.parametrize("words", ["class:b=2:c=0.5", "class:c=0"])
def test_given_weights_are_exact_from_the_first_call(words: str) -> None:
    expected = {"class:b=2:c=0.5": [1.0, 2.0, 0.5], "class:c=0": [1.0, 1.0, 0.0]}[words]
    balancer = of_class(["a", "b", "c"], words, 2)
    losses, positives = trace(3, 20, 3, [])
    for row, count in zip(losses, positives, strict=True):
        assert balancer.weights.tolist() == expected
        total = balancer(torch.from_numpy(np.append(row, np.float32(3))), torch.from_numpy(count))
        torch.testing.assert_close(total, torch.from_numpy(row) @ torch.tensor(expected) + 3)
    assert balancer.scheme.name == words
    assert balancer.intervals == 10


def test_given_names_may_hold_spaces() -> None:
    balancer = LossBalancer(["small cat", "large cat"], "size:small cat=1.5", by="size")
    assert balancer.weights.tolist() == [1.5, 1.0]


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 2000))
def test_by_itself_the_weights_leave_one_within_the_first_tenth_of_any_training(
    length: int,
) -> None:
    balancer = of_class(3, "share")
    for _ in range(length // 10):
        balancer(torch.tensor([0.7, 0.2, 0.1]), torch.tensor([70, 20, 10]))
    assert balancer.intervals >= 1
    assert float(balancer.weights.std()) > 0.1


def test_by_itself_the_interval_grows_with_the_training_from_5_to_100() -> None:
    balancer = of_class(1, "equal", accumulate=2)
    ends: list[int] = []
    steps = 0
    for call in range(2, 5000, 2):
        for _ in range(2):
            balancer(torch.ones(1), torch.ones(1))
        if balancer.intervals > len(ends):
            ends.append(call // 2 - steps)
            steps = call // 2
    assert ends[:12] == [5] * 12
    assert ends == sorted(ends)
    assert ends[-1] == 100
    assert balancer.intervals == len(ends)
    assert LossBalancer(1).interval == 100


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
    """However it was made, and whether it trains or evaluates first."""
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
        twin._apply(lambda tensor: tensor.clone())  # as a move to another device does
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


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("name", ["share", "avw", "rlo"])
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


@pytest.mark.parametrize(
    ("positives", "words"),
    [
        (None, r"balancer\(losses, positives\)"),
        (torch.ones(2), r"of shape \(2,\)"),
        (torch.ones(4), r"of shape \(4,\)"),
        (torch.ones(3, device="meta"), "on meta"),
    ],
)
def test_missing_or_odd_positives_are_refused(positives: Tensor | None, words: str) -> None:
    balancer = of_class(3, "share", interval=2)
    for size in (3, 4):
        with pytest.raises(ValueError, match=words):
            balancer(torch.ones(size), positives)
    assert balancer.calls == 0


@pytest.mark.parametrize("by", ["level", "class"])
@pytest.mark.parametrize("shape", [(2,), (5,), (1, 4), ()])
def test_losses_of_another_shape_are_refused(by: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this balancer has 3 groups but got"):
        LossBalancer(3, "equal", by=by)(torch.ones(shape), torch.ones(3))


def test_whole_levels_have_no_background() -> None:
    with pytest.raises(ValueError, match="this balancer has 3 groups but got"):
        LossBalancer(3, "equal")(torch.ones(4))


@pytest.mark.parametrize("name", ONLY_POSITIVES)
def test_schemes_of_positives_refuse_whole_levels(name: str) -> None:
    with pytest.raises(ValueError, match="weighs positives, and the groups are whole levels"):
        LossBalancer(3, name, objects=[1, 2, 3])


@pytest.mark.parametrize(
    ("scheme", "settings", "match"),
    [
        ("effective", {"objects": None}, r"how many objects .*objects=\[\.\.\.\]"),
        ("class:d=2", {}, "no group d; there are: a, b, c"),
        ("size:a=2", {}, "size:a=2 weighs by size, the groups are by class"),
        ("share:power=1.5", {}, r"power must lie in 0\.\.1, got 1\.5"),
        ("effective:beta=1", {}, "beta must lie in"),
        ("share", {"clip": (1.5, 3)}, "clip must hold 1"),
        ("share", {"clip": (-1, 3)}, "nothing below 0"),
        ("share", {"memory": 1.0}, "memory must lie in"),
        ("share", {"normalize": "sum"}, "'positives', 'lift' by class, got 'sum'"),
        ("class", {}, "name a group and its weight"),
        ("class:a", {}, "'a' is no group=weight, such as class:a=2"),
        ("class:a=-1", {}, "weight of a must be a number from 0 on"),
        ("class:a=nan", {}, "weight of a must be a number from 0 on"),
        ("avw:per_positive=true", {}, "no argument 'per_positive'"),
    ],
)
def test_wrong_arguments_are_refused(scheme: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        of_class(["a", "b", "c"], scheme, **settings)


def test_two_groups_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        of_class(["a", "a"], "share")


@pytest.mark.parametrize("objects", [[1.0], [1.0, 2.0, 3.0, 4.0]])
def test_as_many_numbers_of_objects_as_groups_are_needed(objects: list[float]) -> None:
    with pytest.raises(ValueError, match=r"objects.* 3 groups"):
        of_class(3, "effective", objects=objects)


def test_normalising_by_positives_is_refused_for_whole_levels() -> None:
    with pytest.raises(ValueError, match="by level, got 'positives'"):
        LossBalancer(3, "equal", normalize="positives")


@pytest.mark.parametrize("by", ["level", "size"])
def test_a_state_of_other_groups_is_refused_untouched(by: str) -> None:
    balancer, other = (
        of_class(3, "avw:signal=magnitude", 2),
        LossBalancer(3, "avw:signal=magnitude", 2, by=by),
    )
    feed(balancer, 7)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="scheme 'avw-magnitude by class', this one"):
        other.load_state_dict(balancer.state_dict())
    with pytest.raises(ValueError, match="this one 3 groups and scheme 'avw-magnitude by class'"):
        balancer.load_state_dict(before)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_names_say_what_differs_from_the_default() -> None:
    names = {words: scheme_from_words(words).name for words in ("share", "share:power=1", "loss")}
    assert names == {"share": "share", "share:power=1": "share-1", "loss": "loss"}
    assert scheme_from_words("loss:power=-0.5").name == "loss--0.5"
    assert of_class(2, "avw").scheme.name == "avw-magnitude"
    assert LossBalancer(2, "avw").scheme.name == "avw-decline"
    assert Given("class", {"red cell": 0.5}).name == "class:red cell=0.5"


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-1.0, 2.0]])
def test_an_unusable_proposal_keeps_the_old_weights_and_is_counted(bad: list[float]) -> None:
    proposals = [[0.5, 1.5], bad, [1.5, 0.5]]

    def scripted(current: Moments, previous: Moments) -> Tensor:
        return torch.tensor(proposals.pop(0))

    balancer = of_class(2, scripted, 1)
    seen = []
    for _ in range(3):
        balancer(torch.ones(2), torch.ones(2))
        seen.append(balancer.weights.tolist())
    assert seen == [[0.5, 1.5], [0.5, 1.5], [1.5, 0.5]]
    assert int(balancer.rejected) == 1


def test_a_proposal_of_zeros_is_rejected() -> None:
    balancer = of_class(2, lambda current, previous: torch.zeros(2), 1)
    balancer(torch.ones(2), torch.ones(2))
    assert int(balancer.rejected) == 1


def test_lifting_takes_from_no_group() -> None:
    """Of the weights that keep the positives' mean, those below 1 become 1; the others stay."""
    draw = torch.Generator().manual_seed(5)
    kept, lifted = (of_class(4, "share", 5, normalize=how) for how in ("positives", "lift"))
    for _ in range(40):
        positives = 1 + torch.poisson(torch.tensor([60.0, 20.0, 5.0, 1.0]), generator=draw)
        losses = torch.rand(4, generator=draw) * positives / positives.sum()
        kept(losses, positives)
        lifted(losses, positives)
    assert float(kept.weights.min()) < 0.8
    torch.testing.assert_close(lifted.weights, kept.weights.clamp(min=1.0))
