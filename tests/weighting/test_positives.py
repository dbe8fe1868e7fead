"""Weights of groups of positives, compared with a simple reference; the length of intervals."""

from __future__ import annotations

import math
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
from positives_traces import OBJECTS, of_class, trace

from scalewise.weighting import Given, LossBalancer, scheme_from_words

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
                atol=1e-30,  # below this float32 has few digits
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


def test_names_say_what_differs_from_the_default() -> None:
    names = {words: scheme_from_words(words).name for words in ("share", "share:power=1", "loss")}
    assert names == {"share": "share", "share:power=1": "share-1", "loss": "loss"}
    assert scheme_from_words("loss:power=-0.5").name == "loss--0.5"
    assert of_class(2, "avw").scheme.name == "avw-magnitude"
    assert LossBalancer(2, "avw").scheme.name == "avw-decline"
    assert Given("class", {"red cell": 0.5}).name == "class:red cell=0.5"
