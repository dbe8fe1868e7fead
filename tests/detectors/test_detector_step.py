"""The training step: batches, padding, odd objects, no waiting for the device, compiling, bf16."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detector_batches import (
    FACTORIES,
    gradients,
    make_batch,
    operations,
    random_batch,
    tiny,
    total,
)
from detector_rank import half
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_ranks
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from scalewise.detectors import Batch, DenseDetector, pad_objects
from scalewise.lab.detectors import grid
from scalewise.lab.detectors.head import norm_groups
from scalewise.lab.detectors.losses import average_over_ranks

every_method = pytest.mark.parametrize("name", sorted(FACTORIES))


def _step(detector: DenseDetector, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = detector(batch)
    torch.autograd.backward(total(losses))
    return {term: loss.detach() for term, loss in losses.items()}, gradients(detector)


def _assert_same(
    a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    assert a.keys() == b.keys()
    for key in a:
        scale = float(b[key].detach().abs().max())
        torch.testing.assert_close(a[key], b[key], rtol=rtol, atol=atol * max(scale, 1e-3))


@every_method
def test_losses_are_per_term_and_level(name: str) -> None:
    detector = tiny(name)
    losses = detector(random_batch(0, 3, 6, 128, 160))
    assert tuple(losses) == detector.terms
    assert ("centerness" in losses) == (name != "retinanet")
    for loss in losses.values():
        assert loss.shape == (detector.num_levels,) == (5,)
        assert loss.dtype == torch.float32
        assert loss.requires_grad
    assert not detector.positives.requires_grad
    # a level has box losses exactly where it has positives
    assert ((detector.positives > 0) == (losses["box"] > 0)).all()
    assert detector.positives.sum() > 0


@every_method
def test_rows_of_padding_and_bytes_of_padding_change_nothing(name: str) -> None:
    detector = tiny(name)
    batch = random_batch(1, 3, 5, 128, 160)
    sizes = torch.tensor([[128, 160], [100, 160], [90, 70]])
    batch = batch._replace(sizes=sizes)
    expected, slopes = _step(detector, batch)
    images = batch.images.clone()
    images[1, :, 100:] = 255
    images[2, :, 90:] = 17
    images[2, :, :, 70:] = 99
    boxes = torch.nn.functional.pad(batch.boxes, (0, 0, 0, 3), value=33.0)  # not objects
    labels = torch.nn.functional.pad(batch.labels, (0, 3), value=2)
    valid = torch.nn.functional.pad(batch.valid, (0, 3))
    padded = batch._replace(images=images, boxes=boxes, labels=labels, valid=valid)
    losses, again = _step(detector, padded)
    _assert_same(losses, expected)
    _assert_same(again, slopes)


@every_method
def test_objects_padded_to_a_few_counts_give_the_same_losses(name: str) -> None:
    detector = tiny(name)
    counts = set()
    for objects in (0, 1, 3, 8, 9, 16, 17, 40):
        batch = random_batch(objects, 2, objects, 96, 96)
        padded = pad_objects(batch)
        counts.add(padded.valid.shape[1])
        expected, slopes = _step(detector, batch)
        positives = detector.positives.clone()
        losses, again = _step(detector, padded)
        _assert_same(losses, expected)
        _assert_same(again, slopes)
        assert torch.equal(detector.positives, positives)
    assert counts == {8, 16, 32, 64}
    assert pad_objects(padded) is padded


def test_what_an_evaluation_made_serves_a_training_step() -> None:
    """Grid and anchors kept from an evaluation can be used for training."""
    for name in FACTORIES:
        grid._kept.cache_clear()
        detector = tiny(name)
        batch = random_batch(1, 2, 3, 64, 96)
        with torch.inference_mode():
            detector.eval()(batch)
        losses, _ = _step(detector.train(), batch)
        assert grid._kept.cache_info().misses == 1
        grid._kept.cache_clear()
        _assert_same(losses, detector(batch), rtol=0, atol=0)


@every_method
def test_order_of_images_and_of_objects_changes_nothing(name: str) -> None:
    detector = tiny(name)
    batch = random_batch(2, 4, 6, 96, 96)
    expected, _ = _step(detector, batch)
    shuffled = Batch(*(part.flip(0) for part in batch))
    shuffled = shuffled._replace(
        boxes=shuffled.boxes.flip(1), labels=shuffled.labels.flip(1), valid=shuffled.valid.flip(1)
    )
    losses, _ = _step(detector, shuffled)
    _assert_same(losses, expected)


@every_method
def test_a_batch_is_the_mean_of_its_images_by_their_share_of_positives(name: str) -> None:
    detector = tiny(name)
    batch = random_batch(3, 3, 6, 128, 128)
    together = detector(batch)
    positives = detector.positives.clone()
    weighted = torch.zeros(5)
    count = torch.zeros(5)
    for i in range(3):
        alone = detector(Batch(*(part[i : i + 1] for part in batch)))["classification"]
        weighted += alone.detach() * detector.positives.sum().clamp(min=1)
        count += detector.positives
    torch.testing.assert_close(count, positives)
    torch.testing.assert_close(
        together["classification"].detach(), weighted / positives.sum(), rtol=1e-4, atol=1e-6
    )


@every_method
def test_without_objects_there_is_only_background(name: str) -> None:
    detector = tiny(name)
    no_rows = random_batch(4, 2, 0, 96, 96)
    losses, slopes = _step(detector, no_rows)
    assert losses.pop("classification").gt(0).all()
    assert not any(loss.any() for loss in losses.values())
    assert not detector.positives.any()
    assert all(torch.isfinite(slope).all() for slope in slopes.values())
    rows = random_batch(4, 2, 3, 96, 96)
    rows = rows._replace(images=no_rows.images, valid=torch.zeros_like(rows.valid))
    _assert_same(_step(detector, rows)[1], slopes)


@every_method
def test_boxes_beyond_the_image_and_without_area_stay_finite(name: str) -> None:
    detector = tiny(name)
    boxes = torch.tensor(
        [[-50.0, -50.0, 40.0, 60.0], [64.0, 64.0, 900.0, 900.0], [30, 30, 30, 30], [9, 9, 70, 9]]
    )
    labels = torch.zeros(1, 4, dtype=torch.int64)
    batch = make_batch(boxes[None], labels, labels == 0, 128, 128)
    losses, slopes = _step(detector, batch)
    assert all(torch.isfinite(value).all() for value in (*losses.values(), *slopes.values()))
    assert detector.positives.sum() > 0
    flat = batch._replace(valid=torch.tensor([[False, False, True, True]]))
    detector(flat)
    assert not detector.positives.any()


@every_method
def test_a_thousand_objects(name: str) -> None:
    detector = tiny(name, width=8, depth=0)
    losses = detector(random_batch(5, 1, 1000, 160, 160))
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    assert detector.positives.sum() > 100


@every_method
def test_overflowing_outputs_do_not_poison_the_gradient(name: str) -> None:
    detector = tiny(name, depth=0)
    with torch.no_grad():
        detector.head.boxes.weight.mul_(1e4)
    losses, slopes = _step(detector, random_batch(6, 2, 4, 64, 64))
    assert all(torch.isfinite(value).all() for value in (*losses.values(), *slopes.values()))


@every_method
def test_a_training_step_never_waits_for_the_device(name: str) -> None:
    detector = tiny(name)
    batch = random_batch(7, 2, 5, 64, 64)
    with operations() as seen:
        torch.autograd.backward(total(detector(batch)))
    assert not seen.waits
    with operations() as seen:
        assert detector.positives[detector.positives > 0].sum().item() > 0
    assert seen.waits == ["index", "_local_scalar_dense"]  # the recorder sees reads of values


def test_a_training_step_compiles_to_one_graph() -> None:
    detector = tiny("atss", width=8, depth=0)
    batch = random_batch(8, 2, 4, 64, 96)
    expected, slopes = _step(detector, batch)
    positives = detector.positives.clone()
    detector.positives.zero_()
    compiled = torch.compile(detector, fullgraph=True, backend="aot_eager")
    losses = compiled(batch)
    torch.autograd.backward(total(losses))
    _assert_same({term: loss.detach() for term, loss in losses.items()}, expected)
    _assert_same(gradients(detector), slopes)
    torch.testing.assert_close(detector.positives, positives)
    torch._dynamo.reset()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_the_mean_over_ranks_compiles_too(tmp_path: Path) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mean = torch.compile(average_over_ranks, fullgraph=True, backend="eager")
        assert mean(torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]
    finally:
        dist.destroy_process_group()
        torch._dynamo.reset()


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_every_methods_losses_compile_to_one_graph(name: str) -> None:
    detector = tiny(name, width=8, depth=0)
    batch = random_batch(8, 2, 4, 64, 96)
    predictions, grid = detector.predict(batch.images, batch.sizes)
    expected = detector.method.losses(predictions, grid, batch)
    compiled = torch.compile(detector.method.losses, fullgraph=True, backend="eager")
    losses = compiled(predictions, grid, batch)
    _assert_same(losses.terms, expected.terms)
    assert torch.equal(losses.owner, expected.owner)
    assert torch.equal(losses.positive, expected.positive)
    torch.testing.assert_close(losses.normalisers, expected.normalisers)
    for term, values in expected.terms.items():
        assert values.shape == expected.owner.shape
        sums = [part.sum(0) for part in (losses.terms[term], values)]
        one, other = (detector.method.normalise(term, x, expected.normalisers) for x in sums)
        torch.testing.assert_close(one, other)
    torch._dynamo.reset()


def test_batches_of_many_object_counts_share_two_graphs() -> None:
    """One graph is for the first batch, the other for any number of objects."""
    torch._dynamo.reset()
    detector = tiny("atss", width=8, depth=0)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(detector, fullgraph=True, backend=counter)
    for objects in (3, 5, 8, 2, 30):
        batch = random_batch(objects, 2, objects, 64, 96)
        losses = compiled(batch)
        _assert_same({k: v.detach() for k, v in losses.items()}, detector(batch))
    assert counter.frame_count <= 2
    for objects in (0, 1, 7, 9, 31, 70):  # unpadded, 0 and 1 would need more graphs
        batch = random_batch(objects, 2, objects, 64, 96)
        losses = compiled(pad_objects(batch))
        _assert_same({k: v.detach() for k, v in losses.items()}, detector(batch))
    assert counter.frame_count <= 2
    torch._dynamo.reset()


@every_method
def test_bfloat16_autocast_gives_float32_losses_close_to_float32s(name: str) -> None:
    detector = tiny(name)
    batch = random_batch(9, 2, 5, 96, 96)
    expected = detector(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(batch)
    for term, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[term], rtol=0.05, atol=0.01)


@every_method
def test_a_copy_is_the_same_detector(name: str) -> None:
    detector = tiny(name).eval()
    batch = random_batch(10, 1, 2, 64, 64)
    twin = copy.deepcopy(detector)
    assert torch.equal(detector(batch).scores, twin(batch).scores)
    detector.train()
    _assert_same(copy.deepcopy(detector)(batch), detector(batch))


def test_sides_that_are_no_multiple_of_32_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32 pixels, got 64 x 72"):
        tiny("atss")(random_batch(11, 1, 1, 64, 72))


def test_what_the_detectors_share_is_no_detector() -> None:
    with pytest.raises(TypeError, match="call atss, fcos or retinanet"):
        DenseDetector("resnet18", 3)


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"width": 0}, {"depth": -1}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    factory: Any = FACTORIES["atss"]
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least"):
        factory(**wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 600))
def test_any_width_has_groups(width: int) -> None:
    groups = norm_groups(width)
    assert width % groups == 0
    assert groups == 1 or width // groups >= 8
    assert norm_groups(256) == 32


@pytest.mark.xdist_group("ranks")
@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_make_the_loss_and_gradient_of_one() -> None:
    ranks = run_ranks(half, "atss")
    expected, slopes = _step(tiny("atss", width=8), random_batch(12, 4, 5, 96, 96))
    mean = {key: (ranks[0][key] + ranks[1][key]) / 2 for key in ranks[0]}
    _assert_same(mean, {**expected, **slopes})
