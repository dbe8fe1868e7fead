"""Random batches and tiny detectors that the detector tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scalewise.detectors import Batch, DenseDetector, atss, fcos, retinanet

FACTORIES = {"atss": atss, "fcos": fcos, "retinanet": retinanet}


def make_batch(boxes: Tensor, labels: Tensor, valid: Tensor, height: int, width: int) -> Batch:
    """A batch of noise images with the given objects [B, M, ...]."""
    count = len(boxes)
    return Batch(
        images=torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8),
        boxes=boxes,
        labels=labels,
        valid=valid,
        sizes=torch.tensor([[height, width]] * count),
        scales=torch.ones(count, 2),
        image_ids=torch.arange(count),
    )


def random_batch(
    seed: int, images: int, objects: int, height: int, width: int, classes: int = 5
) -> Batch:
    """Images with up to `objects` boxes of all sizes, on half pixels; the first has all of them."""
    torch.manual_seed(seed)
    limit = torch.tensor([width, height])
    size = (torch.rand(images, objects, 2) * 2.5).exp() / 16 * limit
    size = size.clamp(max=limit - 1.0)
    corner = torch.rand(images, objects, 2) * (limit - size)
    boxes = (torch.cat((corner, corner + size), dim=-1) * 2).round() / 2
    labels = torch.randint(0, classes, (images, objects))
    valid = torch.arange(objects) < torch.randint(0, objects + 1, (images, 1))
    valid[:1] = True
    return make_batch(boxes * valid[..., None], labels * valid, valid, height, width)


def tiny(name: str, classes: int = 5, width: int = 16, depth: int = 1) -> DenseDetector:
    """A detector whose random backbone has fixed BatchNorm, so that images do not interact."""
    torch.manual_seed(0)
    return FACTORIES[name](
        "resnet18", classes, width=width, depth=depth, freeze_bn=True, freeze_stem=True
    )


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of all losses."""
    return torch.stack(list(losses.values())).sum()


def gradients(detector: DenseDetector) -> dict[str, Tensor]:
    """Copy the gradients by parameter name, then set them to zero."""
    found = {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}
    detector.zero_grad()
    return found


WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")


@dataclass
class Operations:
    """What ran, those that wait for the device, and the size of the largest new tensor."""

    names: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    largest: int = 0


@contextmanager
def operations() -> Iterator[Operations]:
    """Record the operators that run inside."""
    seen = Operations()

    def record(mode: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        by_mask = name.startswith("index") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool
            for group in args
            if isinstance(group, list | tuple)
            for i in group
        )
        seen.names.append(name)
        if name in WAITING or by_mask:
            seen.waits.append(name)
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, list | tuple) else (output,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                seen.largest = max(seen.largest, tensor.numel())
        return output

    mode: Any = type("Mode", (TorchDispatchMode,), {"__torch_dispatch__": record})
    with mode():
        yield seen
