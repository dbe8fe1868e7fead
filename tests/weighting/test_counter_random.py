from __future__ import annotations

import math

import torch
from weighting_reference import RefStream

from scalewise.weighting.random import CounterRandom, derive_seed

# The published SplitMix64 test vector for state 1234567.
KNOWN = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_matches_the_known_vector() -> None:
    stream = CounterRandom(0)
    stream.key.fill_(1234567)
    draws = stream.uniform(3).tolist() + stream.uniform(2).tolist()
    assert draws == [((value >> 41) + 0.5) / 2**23 for value in KNOWN]


def test_matches_python_integers_for_any_seed() -> None:
    for seed in (0, 1, -1, 2**62, 2**64 + 5):
        reference = RefStream(seed % 2**64)
        assert CounterRandom(seed).uniform(50).tolist() == [reference.uniform() for _ in range(50)]


def test_uniform_is_uniform_and_open() -> None:
    u = CounterRandom(7).uniform(100_000)
    assert 0 < float(u.min()) < float(u.max()) < 1
    observed = torch.histc(u, 100, 0, 1)
    assert float(((observed - 1000).square() / 1000).sum()) < 148.2  # 0.999 quantile, 99 d.o.f.
    pairs = torch.histc(u[::2] * 10 // 1 * 10 + u[1::2] * 10 // 1, 100, 0, 100)
    assert float(((pairs - 500).square() / 500).sum()) < 148.2


def test_normal_has_the_moments_of_a_normal() -> None:
    x = CounterRandom(11).normal(100_000).double()
    for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = math.sqrt({1: 1, 2: 2, 3: 15, 4: 96}[power] / len(x))
        assert abs(float(x.pow(power).mean()) - expected) < 4 * spread


def test_sibling_streams_differ() -> None:
    seeds = {derive_seed(seed, index) for seed in range(20) for index in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
