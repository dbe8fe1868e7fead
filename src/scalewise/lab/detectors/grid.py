"""The locations of a pyramid, and values that are computed from them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """All locations of the levels of a pyramid, finest level first, each level row by row.

    Location (row, column) of a level lies at (column, row) * stride pixels. With the padding of 3x3
    convolutions of stride 2, that is the middle of the area that its feature sees.

    Attributes:
        points: float32 [A, 2], (x, y) in pixels.
        spacing: float32 [A], the stride of each location's level in pixels.
        shapes: (rows, columns) of each level.
        strides: stride of each level in pixels.
        anchor_scale: factor on the object sizes, in strides, that a method gives to its levels.
        memo: what `once` has computed from the grid.
    """

    points: Tensor
    spacing: Tensor
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    anchor_scale: float = 1.0
    memo: dict[object, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def counts(self) -> list[int]:
        """Number of locations of each level."""
        return [rows * columns for rows, columns in self.shapes]


def make_grid(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
    anchor_scale: float = 1.0,
) -> Grid:
    """Lay the locations of levels with `shapes` (rows, columns) and `strides` out on `device`.

    The same arguments give the same grid again, except while compiling or capturing a CUDA graph.
    """
    # no cache here: the compiler warns about caches, and a graph's tensors lie in its own memory
    fleeting = torch.compiler.is_compiling() or (
        device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    )
    make = _make if fleeting else _kept
    return make(tuple(shapes), tuple(strides), device, anchor_scale)


def _make(
    shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    device: torch.device,
    anchor_scale: float,
) -> Grid:
    points, spacing = [], []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        y = torch.arange(rows, device=device, dtype=torch.float32) * stride
        x = torch.arange(columns, device=device, dtype=torch.float32) * stride
        xy = torch.stack((x.expand(rows, -1), y[:, None].expand(-1, columns)), dim=-1)
        points.append(xy.reshape(-1, 2))  # [rows * columns, 2]
        spacing.append(points[-1].new_full((rows * columns,), stride))
    return Grid(torch.cat(points), torch.cat(spacing), shapes, strides, anchor_scale)


@lru_cache(maxsize=64)  # sizes of multi-scale training
@torch.inference_mode(False)  # a grid from an evaluation must also work in a later training step
def _kept(
    shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    device: torch.device,
    anchor_scale: float,
) -> Grid:
    return _make(shapes, strides, device, anchor_scale)


def once(make: Callable[[Grid], Tensor]) -> Callable[[Grid], Tensor]:
    """Decorator for functions of the grid alone: computed once per grid and kept in its memo."""

    @wraps(make)
    def found(grid: Grid) -> Tensor:
        if torch.compiler.is_compiling():
            return make(grid)
        if make not in grid.memo:
            with torch.inference_mode(False):
                grid.memo[make] = make(grid)
        return grid.memo[make]

    return found
