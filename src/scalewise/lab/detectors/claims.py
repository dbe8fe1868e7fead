"""Finds the locations nearest to an object, and the object that gets a location."""

from __future__ import annotations

import torch
from torch import Tensor


def _nearest_on_axis(position: Tensor, stride: int, size: int, count: int) -> Tensor:
    """The run of `count` (or all `size`) grid indices nearest to each position [...]: [..., count].

    On a regular axis the nearest indices follow each other, so rounding finds them. If two are
    equally near for the last place, the lower index gets it.
    """
    count = min(count, size)
    nearest = torch.ceil(position / stride - 0.5)
    first = (nearest - (count // 2)).clamp(0, size - count).long()
    return first[..., None] + torch.arange(count, device=position.device)


def nearest_window(
    centres: Tensor, shape: tuple[int, int], stride: int, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows crossed with the `count` nearest columns around each centre.

    A level has thousands of locations, but only these few can be among the `count` nearest (if
    `count` is odd): for any other location, `count` locations in its row or column are nearer.

    Args:
        centres: float [B, M, 2], (x, y) in pixels.
        shape: (rows, columns) of the level.
        stride: stride of the level in pixels.
        count: number of rows and columns; fewer if the level has fewer.

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

    On a GPU torch's deterministic mode refuses it, although the order cannot change a maximum or
    minimum.
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
