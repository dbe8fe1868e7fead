"""FCOS and RetinaNet give the losses and gradients of torchvision's with the same weights."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import pytest
import torch
from detector_batches import gradients, make_batch, random_batch, tiny, total
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from scalewise.detectors import Batch, DenseDetector, Detections, retinanet
from scalewise.lab.detectors import room
from scalewise.lab.detectors.detector import MEAN, STD
from scalewise.lab.detectors.grid import make_grid
from scalewise.lab.detectors.method import Predictions
from scalewise.lab.detectors.retinanet import anchors as retinanet_anchors

# torchvision computes a stride as image size // level size, which is right only if all strides
# divide the image size.
SIZE = 128
CLASSES = 5
WIDTH = 32


class _Features(nn.Module):
    """Our backbone and pyramid in the form torchvision's detectors expect."""

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        self.detector = [detector]  # in a list, so that it is not registered as a submodule
        self.out_channels = WIDTH

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels = self.detector[0].pyramid(self.detector[0].backbone(images))
        return OrderedDict((str(i), level) for i, level in enumerate(levels))


def _share(theirs: Any, detector: DenseDetector) -> dict[str, str]:
    """Copy our head's weights into torchvision's; return their parameter names by ours."""
    head = detector.head
    pairs = [
        (theirs.classification_head.conv, head.class_tower, "class_tower"),
        (theirs.regression_head.conv, head.box_tower, "box_tower"),
        (theirs.classification_head.cls_logits, head.classes, "classes"),
        (theirs.regression_head.bbox_reg, head.boxes, "boxes"),
    ]
    if head.centerness is not None:
        pairs.append((theirs.regression_head.bbox_ctrness, head.centerness, "centerness"))
    names = {p: n for n, p in theirs.named_parameters()}
    shared = {}
    for target, source, name in pairs:
        # towers: convolutions and norms come in the same order, but are nested differently
        target_leaves = [m for m in target.modules() if isinstance(m, nn.Conv2d | nn.GroupNorm)]
        source_leaves = {
            n: m for n, m in source.named_modules() if isinstance(m, nn.Conv2d | nn.GroupNorm)
        }
        assert len(target_leaves) == len(source_leaves)
        for to, (path, module) in zip(target_leaves, source_leaves.items(), strict=True):
            to.load_state_dict(module.state_dict(), strict=to.bias is not None)
            if isinstance(to, nn.GroupNorm) and isinstance(module, nn.GroupNorm):
                to.num_groups = module.num_groups  # torchvision has 32, ours fewer on narrow heads
            for key, parameter in to.named_parameters():
                shared[".".join(filter(None, ("head", name, path, key)))] = names[parameter]
    return shared


def _twins(name: str) -> tuple[DenseDetector, Any, dict[str, str]]:
    depth = 4 if name == "retinanet" else 2  # torchvision's RetinaNet head has four layers
    ours = tiny(name, CLASSES, WIDTH, depth)
    with torch.no_grad():  # larger outputs than at the start, or all losses would look alike
        for layer in (ours.head.classes, ours.head.boxes):
            layer.weight.mul_(20)
    backbone: Any = _Features(ours)
    if name == "fcos":
        theirs: Any = FCOS(backbone, CLASSES)
        theirs.head.classification_head.conv = theirs.head.classification_head.conv[: 3 * depth]
        theirs.head.regression_head.conv = theirs.head.regression_head.conv[: 3 * depth]
    else:
        norm = partial(nn.GroupNorm, 32)
        head = RetinaNetHead(WIDTH, 9, CLASSES, norm)
        theirs = RetinaNet(backbone, CLASSES, anchor_generator=_default_anchorgen(), head=head)
    theirs.transform = GeneralizedRCNNTransform(SIZE, SIZE, [0.0] * 3, [1.0] * 3)
    return ours.train(), theirs.train(), _share(theirs.head, ours)


def _theirs(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid]}
        for boxes, labels, valid in zip(batch.boxes, batch.labels, batch.valid, strict=True)
    ]
    # normalised exactly as ours are, since rounding would switch single ReLUs of the backbone
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = (batch.images.float() - mean * 255) / (std * 255)
    torch.testing.assert_close(images, (batch.images / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    return list(images), targets


def _close(ours: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


def _same_gradients(ours: DenseDetector, theirs: Any, shared: dict[str, str]) -> None:
    """Assert that our head and torchvision's copy of it have the same gradients."""
    theirs_in_head = {n: p.grad for n, p in theirs.head.named_parameters()}
    for name, other in shared.items():
        parameter = ours.get_parameter(name)
        assert parameter.grad is not None
        _close(parameter.grad, theirs_in_head[other])


NAMES = {"classification": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}


def _losses_and_gradients(name: str, batch: Batch) -> None:
    ours, theirs, shared = _twins(name)
    expected = theirs(*_theirs(batch))
    torch.autograd.backward(sum(expected.values()))
    below = gradients(ours)  # gradients of backbone and pyramid through torchvision's head and loss
    losses = ours(batch)
    for term in ours.terms:
        _close(losses[term].sum(), expected[NAMES[term]])
    torch.autograd.backward(total(losses))
    for path, gradient in below.items():
        found = ours.get_parameter(path).grad
        assert found is not None
        _close(found, gradient)
    assert any(path.startswith("backbone") for path in below)
    _same_gradients(ours, theirs, shared)


def test_fcos_losses_and_gradients_equal_torchvisions() -> None:
    batch = random_batch(0, 3, 6, SIZE, SIZE)
    # torchvision adds 1e8 to areas in float32, which rounds them to 8 square pixels
    areas = (batch.boxes[..., 2:] - batch.boxes[..., :2]).prod(-1)
    gaps = (areas[:, :, None] - areas[:, None]).abs()
    assert (gaps[areas[:, :, None].expand_as(gaps) > areas[:, None]] > 16).all()
    _losses_and_gradients("fcos", batch)


def test_fcos_without_any_object_equals_torchvisions() -> None:
    _losses_and_gradients("fcos", random_batch(1, 2, 0, SIZE, SIZE))


def test_retinanet_losses_and_gradients_equal_torchvisions_on_one_image() -> None:
    # torchvision divides by the positives of each image, we by those of the batch: use one image
    _losses_and_gradients("retinanet", random_batch(2, 1, 7, SIZE, SIZE))


def test_retinanet_without_any_object_equals_torchvisions() -> None:
    _losses_and_gradients("retinanet", random_batch(3, 1, 0, SIZE, SIZE))


def test_retinanet_batch_is_torchvisions_images_weighted_by_their_positives() -> None:
    ours, theirs, _ = _twins("retinanet")
    batch = random_batch(4, 4, 6, SIZE, SIZE)
    assert len(set(batch.valid.sum(1).tolist())) > 2  # one image is empty, the others differ
    images, targets = _theirs(batch)
    weighted: dict[str, float] = dict.fromkeys(ours.terms, 0.0)
    positives = 0.0
    with torch.no_grad():
        losses = ours(batch)
        count = float(ours.positives.sum())
        for i in range(4):
            ours(Batch(*(part[i : i + 1] for part in batch)))
            here = float(ours.positives.sum())
            alone = theirs([images[i]], [targets[i]])
            positives += here
            for term in ours.terms:
                weighted[term] += max(1.0, here) * float(alone[NAMES[term]])
    assert positives == count
    for term in ours.terms:
        assert float(losses[term].sum()) == pytest.approx(weighted[term] / count, rel=1e-4)


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_each_level_has_the_gradient_torchvision_gives_it(name: str) -> None:
    ours, theirs, _ = _twins(name)
    batch = random_batch(5, 1, 8, SIZE, SIZE)
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        logits = output.logits if isinstance(output, Predictions) else output["cls_logits"]
        logits.retain_grad()
        seen.append(logits)

    for module in (ours.head, theirs.head):
        module.register_forward_hook(keep)
    losses = ours(batch)["classification"]
    torch.autograd.backward(theirs(*_theirs(batch))["classification"])
    mine, reference = seen
    assert reference.grad is not None
    per_location = 9 if name == "retinanet" else 1
    counts = [(SIZE // s) ** 2 * per_location for s in ours.strides]
    expected = torch.split(reference.grad, counts, dim=1)
    for level in range(ours.num_levels):
        (gradient,) = torch.autograd.grad(losses[level], mine, retain_graph=True)
        for other, part in enumerate(torch.split(gradient, counts, dim=1)):
            if other == level:
                _close(part, expected[level])
            else:
                assert not part.any()


def test_retinanet_anchors_are_torchvisions() -> None:
    levels = [torch.zeros(1, 1, 256 // s, 384 // s) for s in (8, 16, 32, 64, 128)]
    images = ImageList(torch.zeros(1, 3, 256, 384), [(256, 384)])
    generator: AnchorGenerator = _default_anchorgen()
    grid = make_grid(
        [(256 // s, 384 // s) for s in (8, 16, 32, 64, 128)],
        (8, 16, 32, 64, 128),
        torch.device("cpu"),
    )
    torch.testing.assert_close(
        retinanet_anchors(grid), generator(images, levels)[0], rtol=0, atol=0
    )


@pytest.mark.parametrize("pieces", [1, 2**14, 2**16])
def test_retinanet_gives_the_same_whatever_memory_is_free(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overlaps are computed for one object at a time, a few or all, with equal results."""
    detector = retinanet("resnet18", CLASSES, width=8, depth=0, freeze_bn=True)
    batch = random_batch(6, 2, 9, SIZE, SIZE)
    batch.boxes[:, 1] = batch.boxes[:, 0]  # two objects with the same overlaps
    whole = detector(batch)
    torch.autograd.backward(total(whole))
    expected = gradients(detector)
    asked: list[int] = []

    def at_once(device: torch.device, needed: int) -> int:
        asked.append(needed)
        return pieces

    monkeypatch.setattr("scalewise.lab.detectors.overlap_match.at_once", at_once)
    monkeypatch.setattr("scalewise.lab.detectors.focal.CACHE", pieces)
    losses = detector(batch)
    torch.autograd.backward(total(losses))
    anchors = 9 * sum((-(-SIZE // stride)) ** 2 for stride in (8, 16, 32, 64, 128))
    assert asked == [2 * 9 * anchors]
    for term, found in losses.items():
        torch.testing.assert_close(found, whole[term])
    for name, slope in gradients(detector).items():
        torch.testing.assert_close(slope, expected[name], rtol=1e-4, atol=1e-6)


def test_pieces_follow_the_free_memory_of_a_gpu_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    free = 40 * 2**30
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * 2**30)
    much, little = 2**40, 2**24
    assert room.at_once(cpu, much) == room.at_once(gpu, little) == room.USUAL
    assert room.at_once(gpu, much) == free // 4 // room.BYTES
    free = 0
    assert room.at_once(gpu, much) == room.LEAST
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert room.at_once(gpu, much) == room.USUAL


def test_a_box_far_outside_is_rescued_by_no_anchor() -> None:
    detector = retinanet("resnet18", CLASSES, width=8, depth=0, freeze_bn=True)
    outside = torch.tensor([[[5000.0, 5000.0, 5100.0, 5100.0]]])
    labels = torch.zeros(1, 1, dtype=torch.int64)
    detector(make_batch(outside, labels, labels == 0, SIZE, SIZE))
    assert not detector.positives.any()


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_detections_equal_torchvisions(name: str) -> None:
    ours, theirs, _ = _twins(name)
    ours.eval()
    theirs.eval()
    theirs.score_thresh = ours.score_threshold = 0.02 if name == "retinanet" else 0.1
    theirs.nms_thresh = ours.method.nms_iou
    theirs.detections_per_img = ours.max_detections
    batch = random_batch(7, 2, 3, SIZE, SIZE)
    found = ours(batch)
    assert isinstance(found, Detections)
    images, _ = _theirs(batch)
    with torch.no_grad():
        expected = theirs(images)
    for i, reference in enumerate(expected):
        valid = found.valid[i]
        assert int(valid.sum()) == len(reference["scores"]) > 10
        torch.testing.assert_close(found.scores[i][valid], reference["scores"])
        torch.testing.assert_close(found.boxes[i][valid], reference["boxes"], rtol=1e-3, atol=1e-3)
        assert found.labels[i][valid].tolist() == reference["labels"].tolist()
