"""Every scheme, compared with a simple NumPy reference on random traces with faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weighting_reference import (
    RefAVW,
    RefBalancer,
    RefCoV,
    RefDWA,
    RefEqual,
    RefInverse,
    RefRandom,
    RefRLO,
)

from scalewise.weighting import AVW, DWA, RLO, CoV, Equal, InverseLoss, LossBalancer, RandomWeights

DEFAULT_ACTIONS: list[Callable[[], RefEqual | RefAVW | RefCoV]] = [
    RefEqual,
    RefAVW,
    lambda: RefAVW(invert=True),
    lambda: RefAVW("dispersion"),
]
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {
    "equal": (Equal, lambda seed: RefEqual()),
    "avw-decline": (AVW, lambda seed: RefAVW()),
    "avw-dispersion": (
        lambda: AVW("dispersion", temperature=0.5, momentum=0.0),
        lambda seed: RefAVW("dispersion", temperature=0.5, momentum=0.0),
    ),
    "avw-magnitude": (
        lambda: AVW("magnitude", temperature=3.0, strength=1.0, invert=True),
        lambda seed: RefAVW("magnitude", temperature=3.0, strength=1.0, invert=True),
    ),
    "dwa": (DWA, lambda seed: RefDWA()),
    "inverse": (InverseLoss, lambda seed: RefInverse()),
    "cov": (CoV, lambda seed: RefCoV()),
    "avw-min-share": (
        lambda: AVW("magnitude", 2.0, 1.0, invert=True, min_share=0.02),
        lambda seed: RefAVW("magnitude", 2.0, 1.0, invert=True, min_share=0.02),
    ),
    "avw-sharp": (lambda: AVW(temperature=0.5), lambda seed: RefAVW(temperature=0.5)),
    "rlo-cov": (lambda: RLO([AVW(), CoV()]), lambda seed: RefRLO([RefAVW(), RefCoV()], seed)),
    "random": (RandomWeights, RefRandom),
    "rlo": (RLO, lambda seed: RefRLO([make() for make in DEFAULT_ACTIONS], seed)),
    "rlo-eager": (
        lambda: RLO(
            [Equal(), AVW("magnitude")], learning_rate=1.0, explore=0.3, clip=1.0, memory=0.5
        ),
        lambda seed: RefRLO([RefEqual(), RefAVW("magnitude")], seed, 1.0, 0.3, 1.0, 0.5),
    ),
}


def trace(seed: int, steps: int, n: int, faults: list[str]) -> np.ndarray[Any, Any]:
    """Decaying log-normal losses float32 [steps, n] of different scales, with faults."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** -np.arange(n)[None] % 1e3
    decay = np.exp(-rng.uniform(0, 0.02, n)[None] * np.arange(steps)[:, None])
    losses = scale * decay * np.exp(rng.normal(0, rng.uniform(0.05, 0.8, n), (steps, n)))
    for fault in faults:
        level = rng.integers(n)
        if fault == "explosion":
            losses[rng.random(steps) < 0.05] *= 200
        elif fault == "nan":
            losses[rng.random(steps) < 0.2, level] = np.nan
        elif fault == "infinite":
            losses[rng.random((steps, n)) < 0.05] = np.inf
        elif fault == "dead":
            losses[:, level] = 0.0
        elif fault == "constant":
            losses[:, level] = 0.1
        elif fault == "rare":
            losses[rng.random(steps) < 0.9, level] = 0.0
        elif fault == "absent at first":
            losses[: steps // 2, level] = np.nan
    return losses.astype(np.float32)


FAULTS = ["explosion", "nan", "infinite", "dead", "constant", "rare", "absent at first"]


@pytest.mark.parametrize("normalize", ["mean", "loss"])
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=3, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 3, 5]),
    interval=st.sampled_from([1, 2, 7, 30, 150]),
    accumulate=st.sampled_from([1, 1, 3]),
    faults=st.lists(st.sampled_from(FAULTS), max_size=3, unique=True),
)
def test_same_weights_and_totals_as_the_twin(
    name: str,
    normalize: Any,
    seed: int,
    n: int,
    interval: int,
    accumulate: int,
    faults: list[str],
) -> None:
    make, make_reference = PAIRS[name]
    balancer = LossBalancer(
        n, make(), interval, normalize=normalize, accumulate=accumulate, seed=seed
    )
    reference = RefBalancer(n, make_reference(seed).propose, interval, normalize, accumulate)
    steps = min(interval * accumulate * 5, 460)
    for losses in trace(seed, steps, n, faults):
        total = balancer(torch.from_numpy(losses))
        expected = reference.call([float(x) for x in losses])
        if np.isfinite(losses).all():
            assert float(total) == pytest.approx(expected, rel=2e-3)
        np.testing.assert_allclose(
            balancer.weights.numpy(), reference.weights, rtol=2e-3, atol=1e-4
        )
    assert int(balancer.rejected) == 0
    if balancer.intervals * interval * accumulate == steps:
        assert balancer.skipped.tolist() == reference.skipped
        assert balancer.outliers.tolist() == reference.outliers
        np.testing.assert_allclose(
            balancer.statistics.variance.numpy(), reference.previous.variance, rtol=1e-3
        )


def test_the_comparison_would_notice_a_wrong_scheme() -> None:
    balancer = LossBalancer(3, AVW(momentum=0.8), 10)
    reference = RefBalancer(3, RefAVW(momentum=0.9).propose, 10, "mean")
    for losses in trace(0, 40, 3, []):
        balancer(torch.from_numpy(losses))
        reference.call([float(x) for x in losses])
    assert not np.allclose(balancer.weights.numpy(), reference.weights, rtol=2e-3)
