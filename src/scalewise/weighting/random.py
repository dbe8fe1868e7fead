"""Random numbers from a counter: the same on every device and rank, and part of the state.

A `torch.Generator` draws differently on CPU and GPU, is no buffer and breaks full-graph
compilation. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) needs only a key and a counter, and
integer arithmetic that wraps alike everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the bits of `value` modulo 2**64."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def derive_seed(seed: int, index: int) -> int:
    """The `index`-th of many unrelated seeds below 2**63, so that siblings never share a stream."""
    z = (seed + (index + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return (z ^ (z >> 31)) >> 1


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class CounterRandom(nn.Module):
    """A stream of random numbers whose whole state is two integers on the device.

    Args:
        seed: any integer.
    """

    key: Tensor
    counter: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.register_buffer("key", torch.tensor(_signed(derive_seed(seed, 0))))
        self.register_buffer("counter", torch.tensor(0))

    def uniform(self, size: int) -> Tensor:
        """Draw float32 [size], uniform on the open interval (0, 1), in steps of 2**-23."""
        index = torch.arange(1, size + 1, device=self.counter.device) + self.counter  # int64 [size]
        z = index * _signed(_GOLDEN) + self.key
        z = (z ^ _shift(z, 30)) * _signed(_FIRST)
        z = (z ^ _shift(z, 27)) * _signed(_SECOND)
        z = z ^ _shift(z, 31)
        self.counter += size
        return (_shift(z, 41).to(torch.float32) + 0.5) / (1 << 23)

    def normal(self, size: int) -> Tensor:
        """Draw float32 [size], standard normal (Box and Muller, 1958)."""
        radius, angle = self.uniform(2 * size).view(2, size)
        return torch.sqrt(-2 * radius.log()) * torch.cos(2 * math.pi * angle)
