"""No step copies a value from the device to the host, not even at the end of an interval."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from scheme_lists import OF_LEVELS, OF_POSITIVES
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from scalewise.weighting import (
    AVW,
    LossBalancer,
    Static,
    by_class,
    by_size,
    product,
    weigh_positives,
)

aten = torch.ops.aten
# Each of these waits for the device, since the host needs its result or the shape of its result.
READS = {
    aten._local_scalar_dense,
    aten.item,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_consecutive,
    aten._unique2,
    aten.bincount,
    aten.repeat_interleave,
}


# On the CPU these call no operator, so they are watched by name.
METHODS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}


def refuse_reads(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Run an operator unless it would read from the device."""
    packet = func.overloadpacket
    if packet in READS:
        raise AssertionError(f"{func} reads from the device")
    if packet in (aten.index, aten.index_put, aten.index_put_):
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                raise AssertionError(f"{func} with a mask reads from the device")
    if packet in (aten._to_copy, aten.copy_):
        source = args[0] if packet is aten._to_copy else args[1]
        if (kwargs or {}).get("device", source.device) != source.device:
            raise AssertionError(f"{func} moves between devices")
    return func(*args, **(kwargs or {}))


def refuse_methods(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Call a method unless it would read from the device."""
    if func in METHODS:
        raise AssertionError(f"{func} reads from the device")
    return func(*args, **(kwargs or {}))


Operators: Any = type("Operators", (TorchDispatchMode,), {"__torch_dispatch__": refuse_reads})
Methods: Any = type("Methods", (TorchFunctionMode,), {"__torch_function__": refuse_methods})


@contextmanager
def no_host_reads() -> Iterator[None]:
    with Methods(), Operators():
        yield


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x[torch.tensor(1)],
        lambda x: torch.nn.functional.one_hot(x.long()),
        lambda x: x.masked_select(x > 0),
        lambda x: x.tolist(),
        lambda x: x.to("meta"),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
    ],
)
def test_the_watch_itself_fires(read: Any) -> None:
    with pytest.raises(AssertionError, match="device"), no_host_reads():
        read(torch.ones(3))


@pytest.mark.parametrize("normalize", ["mean", "loss"])
@pytest.mark.parametrize("interval", [1, 6])
@pytest.mark.parametrize("name", [*OF_LEVELS, "avw-magnitude", "static"])
def test_steps_and_interval_ends_read_nothing(name: str, interval: int, normalize: Any) -> None:
    scheme: Any = {"avw-magnitude": AVW("magnitude"), "static": Static([1, 2, 3])}.get(name, name)
    balancer = LossBalancer(3, scheme, interval, normalize=normalize)
    rows = torch.rand(4 * interval, 3)
    with no_host_reads():
        for row in rows.unbind(0):
            losses = row.requires_grad_()
            torch.autograd.backward(balancer(losses))
            balancer.advance()
        _ = (balancer.statistics, balancer.skipped, balancer.outliers, balancer.weights)
    assert balancer.intervals == 4


def test_blocks_within_an_interval_read_nothing() -> None:
    balancer = LossBalancer(3, "avw", 140)
    with no_host_reads():
        for row in torch.rand(280, 3).unbind(0):
            balancer(row)
    assert balancer.intervals == 2


@pytest.mark.parametrize("groups", [3, 240])
@pytest.mark.parametrize("name", [*OF_POSITIVES, "static", "class:group1=2"])
def test_groups_of_positives_read_nothing_either(name: str, groups: int) -> None:
    scheme: Any = Static([1, 2, 3] * (groups // 3)) if name == "static" else name
    balancer = LossBalancer(groups, scheme, 6, by="class", objects=[9.0] * groups)
    rows = torch.rand(24, groups + 1)
    positives = torch.randint(0, 3, (24, groups))
    with no_host_reads():
        for row, count in zip(rows.unbind(0), positives.unbind(0), strict=True):
            torch.autograd.backward(balancer(row.requires_grad_(), count))
            balancer.advance()
        _ = (balancer.statistics, balancer.skipped, balancer.outliers, balancer.weights)
    assert balancer.intervals == 4


def test_growing_intervals_and_blocks_of_positives_read_nothing() -> None:
    grown, long = (LossBalancer(3, "share", by="class", interval=i) for i in ("auto", 140))
    with no_host_reads():
        for row in torch.rand(280, 3).unbind(0):
            grown(row, row)
            long(row, row)
    assert long.intervals == 2
    assert grown.intervals > 10


def test_grouping_and_weighing_positives_read_nothing() -> None:
    grouping = product(by_size([20, 60]), by_class(["a", "b"]))
    assert grouping.group_of is not None
    balancer = LossBalancer(grouping.names, "share", 2, by=grouping.by)
    boxes, labels = torch.rand(2, 50, 4) * 100, torch.randint(0, 2, (2, 50))
    loss = torch.rand(2, 50, requires_grad=True)
    with no_host_reads():
        for _ in range(4):
            ids = grouping.group_of(boxes, labels)
            torch.autograd.backward(
                weigh_positives(loss, torch.where(labels > 0, ids, -1), balancer)
            )
    assert balancer.intervals == 2
