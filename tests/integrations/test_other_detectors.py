"""The code of docs/other-detectors.md with effdet and YOLOX, compared with their own losses."""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, box_iou

import scalewise as sw

PAGE = Path(__file__).parents[2] / "docs/other-detectors.md"
CLASSES = 4
WEIGHTS = torch.tensor([0.3, 1.7, 2.5, 0.8])
Gradients = dict[str, Tensor]


def definitions(title: str) -> dict[str, Any]:
    """Run only the imports, functions and classes of a section's code; return its names."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    code = ast.parse("\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)))
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    code.body = [node for node in code.body if isinstance(node, kept)]
    found: dict[str, Any] = {"__name__": "page"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, str(PAGE), "exec"), found)
    return found


def gradients(model: nn.Module, loss: Tensor) -> Gradients:
    model.zero_grad()
    torch.autograd.backward(loss)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def distance(found: Gradients, expected: Gradients) -> float:
    """Norm of the difference over the norm of the expected gradients."""
    assert list(found) == list(expected)
    apart = sum(float((found[n] - g).double().square().sum()) for n, g in expected.items())
    return float((apart / sum(float(g.double().square().sum()) for g in expected.values())) ** 0.5)


def balancer(weights: Tensor) -> sw.LossBalancer:
    names = [f"class{label}" for label in range(CLASSES)]
    own = sw.LossBalancer(names, "equal", by="class")
    own.weights.copy_(weights)
    return own


# Reference for effdet: its own loss, on the anchors of one class at a time


def effdet_bench(legacy: bool, scripted: bool) -> Any:
    effdet = importlib.import_module("effdet")
    config = effdet.get_efficientdet_config("tf_efficientdet_d0")
    own = {"backbone_name": "mobilenetv3_small_050", "backbone_args": {}, "fpn_channels": 8}
    own |= {"fpn_cell_repeats": 1, "box_class_repeats": 1, "num_classes": CLASSES}
    own |= {"legacy_focal": legacy, "jit_loss": scripted, "image_size": (128, 128)}
    own |= {"label_smoothing": 0.0 if legacy else 0.1}
    edited = type(config)({**config, **own})
    torch.manual_seed(0)
    bench = effdet.DetBenchTrain(effdet.EfficientDet(edited, pretrained_backbone=False)).train()
    for norm in bench.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    return bench


def effdet_batch(count: int) -> tuple[Tensor, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(2)
    corner = 70 * torch.rand(2, count, 2, generator=draw)
    boxes = torch.cat((corner, corner + 20 + 35 * torch.rand(2, count, 2, generator=draw)), 2)
    classes = torch.randint(1, CLASSES + 1, (2, count), generator=draw).float()
    return torch.rand(2, 3, 128, 128, generator=draw), {"bbox": boxes, "cls": classes}


class OneClassAtATime(nn.Module):
    """Effdet's own loss, once for each class and once for anchors without a class."""

    def __init__(self, theirs: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.theirs, self.weights = theirs, weights

    def forward(
        self, scores: Any, boxes: Any, labels: list[Tensor], wanted: list[Tensor], count: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted total, and two values that are not used."""
        total = torch.zeros(())
        for label, weight in [(-1, 1.0), *enumerate(self.weights.tolist())]:
            alone = [torch.where(own == label, own, -2) for own in labels]
            mine = [(own == label).repeat_interleave(4, -1) for own in labels]
            aims = [aim * keep.view_as(aim) for aim, keep in zip(wanted, mine, strict=True)]
            total = total + weight * self.theirs(scores, boxes, alone, aims, count)[0]
        return total, total, total


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["new", "legacy", "scripted"])
def test_effdet(kind: str) -> None:
    pytest.importorskip("effdet", reason="effdet is not installed: scalewise[dev] has it")
    weigh = definitions("effdet")["GroupLoss"]
    bench = effdet_bench(kind == "legacy", kind == "scripted")
    theirs = bench.loss_fn
    for count in (5, 1):
        images, target = effdet_batch(count)
        for weights in (torch.ones(CLASSES), WEIGHTS):
            found = []
            plain = theirs if weights is not WEIGHTS else OneClassAtATime(theirs, weights)
            for loss_fn in (weigh(theirs, balancer(weights)), plain):
                bench.loss_fn = loss_fn
                loss = bench(images, target)["loss"]
                found.append((loss.detach(), gradients(bench, loss)))
            (loss, own), (expected, reference) = found
            torch.testing.assert_close(loss, expected, rtol=2e-6, atol=0)
            assert distance(own, reference) < 2e-5
        bench.loss_fn = theirs
        unweighted = gradients(bench, bench(images, target)["loss"])
        assert distance(own, unweighted) > 0.01


@pytest.mark.filterwarnings("ignore")
def test_effdet_counts_what_its_labels_say() -> None:
    pytest.importorskip("effdet", reason="effdet is not installed: scalewise[dev] has it")
    bench, own = effdet_bench(legacy=False, scripted=False), balancer(torch.ones(CLASSES))
    seen: list[Tensor] = []
    bench.loss_fn = definitions("effdet")["GroupLoss"](bench.loss_fn, own)
    bench.loss_fn.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[2]))
    bench(*effdet_batch(5))
    expected = torch.cat([label.flatten() for label in seen])
    counts = torch.bincount(expected[expected >= 0], minlength=CLASSES).float()
    assert torch.equal(own.block[0, CLASSES + 1 :], counts)
    assert (counts > 0).sum() > 1


# Reference for YOLOX: its own loss, with gradients for the anchors of one group at a time


def yolox_model() -> Any:
    models = importlib.import_module("yolox.models")
    torch.manual_seed(0)
    neck = models.YOLOPAFPN(0.33, 0.125)
    model = models.YOLOX(neck, models.YOLOXHead(CLASSES, 0.125)).train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    return model


def yolox_batch(counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    labels = torch.zeros(len(counts), 4, 5)
    for own, count in zip(labels, counts, strict=True):
        own[:count, 0] = torch.randint(0, CLASSES, (count,), generator=draw).float()
        own[:count, 1:3] = 30 + 60 * torch.rand(count, 2, generator=draw)
        own[:count, 3:] = 10 + 50 * torch.rand(count, 2, generator=draw)
    return 255 * torch.rand(len(counts), 3, 128, 128, generator=draw), labels


def one_group_at_a_time(head: Any, weights: Tensor, number: Callable[[list[float]], int]) -> None:
    """Replace the head's loss; `number` gives the group of a row of the labels.

    `head.seen` [2, n] then holds, by group, the loss over all positives and their number.
    """
    plain, assign = head.get_losses, head.get_assignments

    def get_losses(*args: Any, **named: Any) -> Any:
        labels, outputs, origin = args[4], args[5], args[6]
        group = torch.full(outputs.shape[:2], -1)

        def note(image: int, *others: Any, **more: Any) -> Any:
            result = assign(image, *others, **more)
            anchors = result[1].nonzero().flatten().tolist()
            for anchor, at in zip(anchors, result[3].tolist(), strict=True):
                row = labels[image, at]
                group[image, anchor] = number(row.tolist())
                positive = positive_loss(outputs[image, anchor].detach(), row)
                head.seen[:, group[image, anchor]] += torch.stack((positive, torch.ones(())))
            return result

        head.seen = torch.zeros(2, CLASSES)

        head.get_assignments = note
        plain(*args, **named)
        head.get_assignments = assign
        head.seen[0] /= head.seen[1].sum().clamp(min=1)
        total, ends = outputs.new_zeros(()), [0]
        for level in origin:
            ends.append(ends[-1] + level.shape[1])
        for own, weight in [(-1, 1.0), *enumerate(weights.tolist())]:
            mask = (group == own)[..., None]
            alone = [
                torch.where(mask[:, start:end], level, level.detach())
                for level, start, end in zip(origin, ends[:-1], ends[1:], strict=True)
            ]
            parts = (*args[:5], torch.where(mask, outputs, outputs.detach()), alone, *args[7:])
            total = total + weight * plain(*parts, **named)[0]
        return total, *[total.detach()] * 5

    head.get_losses = get_losses


def positive_loss(output: Tensor, row: Tensor) -> Tensor:
    """Loss of anchor (centre, sides, objectness, classes) with an object (class, centre, sides)."""
    one, other = (box_convert(own[None], "cxcywh", "xyxy") for own in (output[:4], row[1:]))
    overlap = box_iou(one, other)[0, 0]
    wanted = overlap * (torch.arange(CLASSES) == row[0])
    entropy = F.binary_cross_entropy_with_logits
    classes = entropy(output[5:], wanted, reduction="sum")
    total: Tensor = 5 * (1 - overlap**2) + entropy(output[4], torch.ones(())) + classes
    return total


def small_or_not(row: list[float]) -> int:
    side = float((row[3] * row[4]) ** 0.5)
    return int(side >= 32) + int(side >= 96)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("distances", [False, True], ids=["first epochs", "last epochs"])
def test_yolox(distances: bool) -> None:
    pytest.importorskip(
        "yolox.models",
        reason="YOLOX is not installed; its requirements cannot be installed any more: "
        "pip install --no-deps --no-build-isolation yolox==0.3.0 loguru tabulate",
    )
    page = definitions("YOLOX")
    groups: dict[str, tuple[Any, Callable[[list[float]], int]]] = {
        "class": (lambda boxes, classes: classes.long(), lambda row: int(row[0])),
        "size": (page["size_of"], small_or_not),
    }
    for group_of, number in groups.values():
        model, plain, reference = yolox_model(), yolox_model(), yolox_model()
        own = balancer(torch.ones(CLASSES))
        seen: list[Any] = []
        own.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs))
        page["weigh"](model.head, own, group_of)
        one_group_at_a_time(reference.head, WEIGHTS, number)
        for one in (model, plain, reference):
            one.head.use_l1 = distances
        for counts in ((4, 2), (3, 0), (0, 0)):
            images, labels = yolox_batch(counts)
            own.weights.fill_(1)
            losses, expected = model(images, labels), plain(images, labels)
            found = gradients(model, losses["total_loss"])
            theirs = gradients(plain, expected["total_loss"])
            for key, value in expected.items():
                assert torch.equal(torch.as_tensor(losses[key]), torch.as_tensor(value)), key
            assert all(torch.equal(found[name], value) for name, value in theirs.items())

            own.weights.copy_(WEIGHTS)
            found = gradients(model, model(images, labels)["total_loss"])
            slow = gradients(reference, reference(images, labels)["total_loss"])
            assert distance(found, slow) < 1e-5
            assert distance(found, theirs) > 0.005 or not sum(counts)

            groups_losses, positives = seen[-1]  # the last loss is the background's
            total = expected["total_loss"].detach()
            torch.testing.assert_close(groups_losses.sum(), total, rtol=1e-5, atol=0)
            assert torch.equal(positives, reference.head.seen[1])
            if not distances:
                torch.testing.assert_close(groups_losses[:-1], reference.head.seen[0])
