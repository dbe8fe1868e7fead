"""Weights of whole levels equal, bit for bit, those of an earlier version (commit 21c205b)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scalewise.weighting import LossBalancer

# Weights of five levels after 20, 40, ... 100 steps.
WEIGHTS = {
    "avw:invert=true": """
        0x1p+0 0x1p+0 0x1p+0 0x1p+0 0x1p+0
        0x1.218a3e00p+0 0x1.ac36d600p-1 0x1.a8763e00p-1 0x1.d8957400p-1 0x1.a56e0200p-1
        0x1.1d67dc00p+0 0x1.b9cc3c00p-1 0x1.b7627600p-1 0x1.dd00d800p-1 0x1.aa63cc00p-1
        0x1.17813600p+0 0x1.ab3df200p-1 0x1.ba6d9600p-1 0x1.ec04c400p-1 0x1.b69ec200p-1
        0x1.16aef200p+0 0x1.b56c0a00p-1 0x1.b8b3a600p-1 0x1.f9b26e00p-1 0x1.b156fe00p-1
    """,
    "rlo:actions=equal+avw+avw(invert=true)+avw(signal=dispersion)": """
        0x1.f93ae400p-1 0x1.f02af200p-1 0x1.1d9a2000p+0 0x1.08f64800p+0 0x1.0632f400p+0
        0x1p+0 0x1p+0 0x1p+0 0x1p+0 0x1p+0
        0x1p+0 0x1p+0 0x1p+0 0x1p+0 0x1p+0
        0x1.fc7f6200p-1 0x1.ecc4c800p-1 0x1.124b3600p+0 0x1.01a88000p+0 0x1.03479000p+0
        0x1.fe342c00p-1 0x1.ee10c000p-1 0x1.0b000e00p+0 0x1.02ae2c00p+0 0x1.005e4a00p+0
    """,
    "cov": """
        0x1p+0 0x1p+0 0x1p+0 0x1p+0 0x1p+0
        0x1.665d7200p-2 0x1.96910000p+0 0x1.95174c00p+0 0x1.d806dc00p+0 0x1.7bbdde00p+2
        0x1.09ecfa00p+0 0x1.9474da00p+0 0x1.e8804a00p-3 0x1.08557800p-1 0x1.df30d600p-1
        0x1.9bb15a00p-1 0x1.f9f6e400p+0 0x1.4cd68000p-1 0x1.b1af0a00p-1 0x1.0b46f000p+0
        0x1.bd873e00p-1 0x1.f60a1400p+0 0x1.38cd3c00p-1 0x1.6b474800p-1 0x1.0e7a8a00p+0
    """,
    "dwa": """
        0x1p+0 0x1p+0 0x1p+0 0x1p+0 0x1p+0
        0x1.00016200p+0 0x1.f6564000p-1 0x1.08258c00p+0 0x1.094eee00p+0 0x1.d85dc800p-1
        0x1.f61b6400p-1 0x1.e0fff600p-1 0x1.163ab000p+0 0x1.20abea00p+0 0x1.0b96a600p+0
        0x1.0afcec00p+0 0x1.cec14600p-1 0x1.f309f400p-1 0x1.e6c28c00p-1 0x1.e6d6b800p-1
        0x1.f645ce00p-1 0x1.efb9b400p-1 0x1.0e5e9c00p+0 0x1.14b8a400p+0 0x1.fd744200p-1
    """,
}
# these actions are the default
WEIGHTS["rlo"] = WEIGHTS["rlo:actions=equal+avw+avw(invert=true)+avw(signal=dispersion)"]


def trace() -> Tensor:
    """Falling losses float32 [100, 5] from 1 down to 0.03."""
    steps = torch.arange(100.0)[:, None]
    scale = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.03])
    fall = torch.tensor([0.004, 0.008, 0.002, 0.001, 0.006])
    noise = torch.rand(100, 5, generator=torch.Generator().manual_seed(3))
    return scale * (1 - fall * steps) * (0.5 + noise)


@pytest.mark.parametrize("words", WEIGHTS)
def test_whole_levels_have_the_weights_they_always_had(words: str) -> None:
    balancer = LossBalancer(5, words, 20)
    rows = WEIGHTS[words].split()
    expected = torch.tensor([float.fromhex(value) for value in rows]).view(5, 5)
    for row in trace():
        balancer(row)
        if balancer.calls % 20 == 0:
            assert torch.equal(balancer.weights, expected[balancer.intervals - 1])
    assert balancer.intervals == 5
