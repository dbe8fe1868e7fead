"""The part of a balancer's `state_dict` that is not tensors, packed as one: 64-bit integers.

It is a tensor because checkpoints are read with `weights_only=True`, and averages of models leave
it alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

_END = -1  # of the label; no byte is negative


@dataclass(frozen=True)
class SavedState:
    """What a balancer saves beside its tensors.

    Attributes:
        groups: number of groups.
        counters: calls, phase and intervals of its clock.
        label: the scheme's name, and what it weighs by.
        short: the clock's `short` and `shortfall`; empty in states of older versions.
        names: of the groups; empty in states of older versions.
    """

    groups: int
    counters: tuple[int, ...]
    label: str
    short: tuple[int, ...]
    names: tuple[str, ...]

    def pack(self) -> Tensor:
        """As int64, on the CPU."""
        head = (self.groups, *self.counters, *self.label.encode())
        return torch.tensor([*head, _END, *self.short, *_codes(self.names)], device="cpu")

    def require_fits(self, label: str, names: Sequence[str]) -> None:
        """Refuse a state of another scheme or of other groups.

        Raises:
            ValueError: naming what differs.
        """
        if (self.groups, self.label) != (len(names), label):
            raise ValueError(
                f"the saved balancer has {self.groups} groups and scheme {self.label!r}, this one "
                f"{len(names)} groups and scheme {label!r}; "
                "make this one with the saved settings, or do not load the state"
            )
        for number, (saved, own) in enumerate(zip(self.names, names, strict=False)):
            if saved != str(own):
                raise ValueError(
                    f"group {number} of the saved balancer is {saved!r}, of this one {own!r}; give "
                    "the saved names in the saved order, or do not load the state"
                )


@lru_cache(maxsize=16)
def _codes(names: tuple[str, ...]) -> bytes:
    """JSON of the names as bytes; kept, because some averages save the state in every step."""
    return json.dumps([str(name) for name in names]).encode()


def unpack_state(state: Tensor) -> SavedState:
    """Read a state that `SavedState.pack` wrote, in this version or an older one."""
    codes = cast(list[int], state.tolist())
    end = codes.index(_END) if _END in codes else len(codes)
    after = codes[end + 1 :]
    names = json.loads(bytes(after[2:])) if len(after) > 2 else ()
    label = bytes(codes[4:end]).decode()
    return SavedState(codes[0], tuple(codes[1:4]), label, tuple(after[:2]), tuple(names))
