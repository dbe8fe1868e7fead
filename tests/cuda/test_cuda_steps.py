"""Training steps on a GPU: without waiting, in a captured graph, in half precision."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_models
from detector_batches import FACTORIES, gradients, random_batch, tiny, total
from torch import Tensor
from waiting import count_waits, no_waits

from scalewise.data import DetectionDataset, DeviceCache, Request, open_split
from scalewise.detectors import Batch
from scalewise.integrations.options import Options
from scalewise.integrations.torchvision import attach_torchvision
from scalewise.lab.training.average import update
from scalewise.weighting import LossBalancer

pytestmark = pytest.mark.cuda
every_method = pytest.mark.parametrize("name", sorted(FACTORIES))


def on(device: torch.device, batch: Batch) -> Batch:
    return Batch(*(part.to(device) for part in batch))


@every_method
def test_a_whole_step_never_waits_for_the_device(name: str, device: torch.device) -> None:
    """No part waits: loss, weights, interval end, backward, clipping, optimizer, moving average."""
    detector = tiny(name).to(device)
    average = copy.deepcopy(detector)
    balancer = LossBalancer(detector.num_levels, "rlo", interval=2).to(device)
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    batches = [on(device, random_batch(seed, 2, 5, 64, 64)) for seed in range(5)]

    def step(batch: Batch) -> None:
        losses: dict[str, Tensor] = detector(batch)
        levels = torch.stack(list(losses.values())).sum(0)
        torch.autograd.backward(balancer(levels, detector.positives))
        torch.nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        update(average, detector, 0.9)

    step(batches[0])  # the first one loads libraries
    with no_waits(device):
        for batch in batches[1:]:
            step(batch)
    assert balancer.intervals == 2


def test_batches_made_on_the_device_are_those_of_the_cpu(
    device: torch.device, tmp_path: Path
) -> None:
    """The images are the same, and the host does not wait for the device while it makes a batch."""
    split = open_split(f"demo:images=12,size=96,folder={tmp_path}/demo")
    dataset = DetectionDataset(split, 64, augment=True, color_jitter=0.0)
    requests = [Request(row, row, mosaic=True) for row in range(12)]
    cache = DeviceCache(dataset, device)
    cache.__getitems__(requests)  # the first call decodes the images
    # not on the CPU: there, reading a number of the host would count as waiting
    with no_waits(device) if device.type == "cuda" else contextlib.nullcontext():
        found = cache.__getitems__(requests)
    expected = DeviceCache(dataset, torch.device("cpu")).__getitems__(requests)
    for name, one, other in zip(Batch._fields, found, expected, strict=True):
        assert one.device.type == device.type
        away = (one.cpu().double() - other.double()).abs()
        assert away.max() <= (name == "images"), name


@pytest.mark.parametrize("by", ["level", "size", "class"])
@pytest.mark.parametrize("family", torchvision_models.FAMILIES)
def test_attached_weights_wait_no_more_than_torchvision_itself(
    family: str, by: str, device: torch.device
) -> None:
    model = torchvision_models.make(family).to(device)
    images, targets = torchvision_models.batch((3, 0, 5))
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in one.items()} for one in targets]

    def step() -> None:
        torch.autograd.backward(torch.stack(list(model(images, targets).values())).sum())

    step()
    plain = count_waits(device, step)
    attached = attach_torchvision(model, Options(by, "rlo", interval=2))
    step()
    weighted = max(count_waits(device, step) for _ in range(3))
    # Mask R-CNN finds the positive regions of each image a second time.
    assert weighted <= plain + (len(images) if family == "mask_rcnn" else 0)
    for name in attached.balancers:
        losses = attached[name].last_losses.clone().requires_grad_()
        positives = None if by == "level" else torch.ones_like(losses)
        losses = losses if by == "level" else torch.nn.functional.pad(losses, (0, 1))
        with no_waits(device):
            for _ in range(4):
                attached.weigh(name, {"loss": losses}, positives)


@every_method
def test_a_captured_step_repeats_the_eager_one(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only CUDA captures graphs")
    detector = tiny(name).to(device)
    trained = [p for p in detector.parameters() if p.requires_grad]
    batches = [on(device, random_batch(seed, 2, 5, 64, 64)) for seed in range(8)]
    plain, captured = (LossBalancer(5, "rlo", interval=2).to(device) for _ in range(2))

    def levels_of(batch: Batch) -> Tensor:
        losses: dict[str, Tensor] = detector(batch)
        return torch.stack(list(losses.values())).sum(0)

    expected = []
    for batch in batches:
        loss = plain(levels_of(batch))
        slopes = torch.autograd.grad(loss, trained, allow_unused=True)
        expected.append((loss.detach().clone(), slopes))

    static = on(device, batches[0])
    make_stream: Any = torch.cuda.Stream
    side = make_stream(device)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            torch.autograd.grad(levels_of(static).sum(), trained, allow_unused=True)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = captured(levels_of(static))
        slopes = torch.autograd.grad(loss, trained, allow_unused=True)
    for batch, (wanted, wanted_slopes) in zip(batches, expected, strict=True):
        for part, fresh in zip(static, batch, strict=True):
            part.copy_(fresh)
        graph.replay()
        torch.testing.assert_close(loss.detach(), wanted, rtol=1e-3, atol=1e-4)
        for found, slope in zip(slopes, wanted_slopes, strict=True):
            if slope is not None:
                assert found is not None
                close = torch.nn.functional.cosine_similarity(
                    found.flatten().double(), slope.flatten().double(), dim=0
                )
                assert close > 0.999 or not slope.any()
        captured.advance()
    torch.testing.assert_close(captured.weights, plain.weights, rtol=1e-3, atol=1e-3)
    assert captured.intervals == 4


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_losses_near_float32s(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    detector = tiny(name).to(device)
    batch = on(device, random_batch(9, 2, 5, 128, 128))
    expected: dict[str, Tensor] = detector(batch)
    torch.autograd.backward(total(expected))
    slopes = gradients(detector)
    with torch.autocast(device.type, dtype=dtype):
        losses: dict[str, Tensor] = detector(batch)
    torch.autograd.backward(1024 * total(losses))
    for term, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[term], rtol=0.05, atol=0.02)
    found = torch.cat([slope.flatten() for slope in gradients(detector).values()]) / 1024
    wanted = torch.cat([slope.flatten() for slope in slopes.values()])
    assert found.isfinite().all()
    assert (found - wanted).norm() < 0.15 * wanted.norm()


@every_method
def test_the_gpu_computes_what_the_cpu_does(name: str, device: torch.device) -> None:
    batch = random_batch(10, 3, 6, 96, 128)
    cpu = tiny(name)
    other: Any = copy.deepcopy(cpu).to(device)
    if device.type == "cuda":
        other.to(memory_format=torch.channels_last)
    expected: dict[str, Tensor] = cpu(batch)
    losses: dict[str, Tensor] = other(on(device, batch))
    torch.testing.assert_close(other.positives.cpu(), cpu.positives, rtol=0, atol=0)
    for term, loss in losses.items():
        torch.testing.assert_close(loss.cpu(), expected[term], rtol=1e-2, atol=1e-3)
