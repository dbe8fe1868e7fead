"""The locations of a pyramid and which of them lie nearest to a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """All locations of the levels of a pyramid, finest level first, each level row by row.

    Location (row, column) of a level lies at (column, row) * stride pixels: with the padding of
    3x3 stride-2 convolutions that is the middle of what its feature sees.

    Attributes:
        points: float32 [A, 2], (x, y) in pixels.
        spacing: float32 [A], the stride of each location's level in pixels.
        shapes: (rows, columns) of each level.
        strides: stride of each level in pixels.
        anchor_scale: factor on the object sizes, in strides, that a method gives to its levels.
        memo: what `once` has made of the grid.
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
    # the compiler warns of caches, and what a graph has made lies in the memory of that graph
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
@torch.inference_mode(False)  # made during an evaluation, it must serve a later training step
def _kept(
    shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    device: torch.device,
    anchor_scale: float,
) -> Grid:
    return _make(shapes, strides, device, anchor_scale)


def once(make: Callable[[Grid], Tensor]) -> Callable[[Grid], Tensor]:
    """Decorator for what depends on the grid alone: made once for each grid, kept in its memo."""

    @wraps(make)
    def found(grid: Grid) -> Tensor:
        if torch.compiler.is_compiling():
            return make(grid)
        if make not in grid.memo:
            with torch.inference_mode(False):
                grid.memo[make] = make(grid)
        return grid.memo[make]

    return found


def _nearest_on_axis(position: Tensor, stride: int, size: int, count: int) -> Tensor:
    """The run of `count` (or all `size`) grid indices nearest to each position [...]: [..., count].

    On a regular axis the nearest indices are contiguous, so rounding finds them. A tie for the last
    place goes to the lower index.
    """
    count = min(count, size)
    nearest = torch.ceil(position / stride - 0.5)
    first = (nearest - (count // 2)).clamp(0, size - count).long()
    return first[..., None] + torch.arange(count, device=position.device)


def nearest_window(
    centres: Tensor, shape: tuple[int, int], stride: int, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows crossed with the `count` nearest columns around each centre.

    A level has thousands of locations, but only these few can be among the `count` nearest (count
    odd): a location outside has `count` locations of its own row or column that are nearer.

    Args:
        centres: float [B, M, 2], (x, y) in pixels.
        shape: (rows, columns) of the level.
        stride: of the level, in pixels.
        count: how many rows and columns, at most those there are.

    Returns:
        int64 [B, M, W] indices into the level, ascending, and float [B, M, W] squared distances.
    """
    rows = _nearest_on_axis(centres[..., 1], stride, shape[0], count)  # [B, M, R]
    columns = _nearest_on_axis(centres[..., 0], stride, shape[1], count)  # [B, M, C]
    dy = (rows * stride - centres[..., 1:]).square()
    dx = (columns * stride - centres[..., :1]).square()
    index = rows[..., :, None] * shape[1] + columns[..., None, :]  # [B, M, R, C]
    return index.flatten(-2), (dy[..., :, None] + dx[..., None, :]).flatten(-2)


def claim(index: Tensor, eligible: Tensor, quality: Tensor, anchors: int) -> Tensor:
    """Give each anchor to the eligible object that has the highest quality there.

    Args:
        index: int64 [B, M, K], the anchors each of M objects competes for.
        eligible: bool [B, M, K]; False means the object does not compete there after all.
        quality: float [B, M, K]; ties go to the first object.
        anchors: number of anchors A.

    Returns:
        int64 [B, A]: the object that each anchor belongs to, M for none.
    """
    batch, objects, candidates = index.shape
    index, eligible = index.flatten(1), eligible.flatten(1)  # [B, M * K]
    quality = torch.where(eligible, quality.flatten(1), -torch.inf)
    best = quality.new_full((batch, anchors), -torch.inf)
    best = _scatter_extreme(best, index, quality, "amax")
    wins = eligible & (quality == best.gather(1, index))
    owner = torch.arange(objects, device=index.device)[:, None].expand(-1, candidates).flatten()
    none = index.new_full((batch, anchors), objects)
    return _scatter_extreme(none, index, torch.where(wins, owner, objects), "amin")


def _scatter_extreme(into: Tensor, index: Tensor, values: Tensor, kind: str) -> Tensor:
    """`scatter_reduce` along axis 1 by "amax" or "amin".

    On a GPU torch's deterministic mode refuses it, although no order of writing changes an extreme.
    """
    strict = torch.are_deterministic_algorithms_enabled() and not torch.compiler.is_compiling()
    if not strict:
        return into.scatter_reduce(1, index, values, kind)
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        return into.scatter_reduce(1, index, values, kind)
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
