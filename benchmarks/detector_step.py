"""Images per second of a whole training step, beside torchvision's FCOS and RetinaNet.

Both train the same network: backbone with frozen BatchNorm and stem, pyramid P3 to P7, head with
GroupNorm, of equal width and depth, on the same images and boxes. A step is forward, loss, backward
and SGD. In each round the detectors take turns in a new random order, so that a slow moment of the
machine hits all of them, and ratios are computed within a round.

    python benchmarks/detector_step.py
    python benchmarks/detector_step.py --device cuda --size 320 --batch 32 --width 256 --depth 4
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import scalewise
from scalewise.detectors import Batch, DenseDetector, atss, fcos, retinanet
from scalewise.lab.detectors.detector import MEAN, STD
from scalewise.lab.detectors.head import norm_groups

CLASSES = 20
Step = Callable[[], None]


def make_batch(images: int, size: int, objects: int) -> Batch:
    """Noise with boxes of all sizes, at least one per image."""
    side = (torch.rand(images, objects, 2) * 2.5).exp() / 16 * size
    corner = torch.rand(images, objects, 2) * (size - side)
    return Batch(
        images=torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8),
        boxes=torch.cat((corner, corner + side), dim=-1),
        labels=torch.randint(0, CLASSES, (images, objects)),
        valid=torch.arange(objects) < torch.randint(1, objects + 1, (images, 1)),
        sizes=torch.full((images, 2), size),
        scales=torch.ones(images, 2),
        image_ids=torch.arange(images),
    )


def torchvision_twin(kind: str, args: argparse.Namespace) -> nn.Module:
    """The detector of torchvision, with the network of ours."""
    model: Any = torchvision.models.get_model(args.backbone, norm_layer=FrozenBatchNorm2d)
    if args.backbone == "mobilenet_v2":
        body, stem = model.features, list(model.features[:4])
        layers, channels = {"6": "0", "13": "1", "17": "2"}, [32, 96, 320]
    else:
        body, stem = model, [model.conv1, model.bn1, model.layer1]
        layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
        channels = [model.fc.in_features // 4, model.fc.in_features // 2, model.fc.in_features]
    for module in stem:
        module.requires_grad_(False)
    extra = LastLevelP6P7(args.width, args.width)
    backbone: Any = BackboneWithFPN(body, layers, channels, args.width, extra)
    norm = partial(nn.GroupNorm, norm_groups(args.width))
    twin: Any
    if kind == "fcos":
        twin = FCOS(backbone, CLASSES)
        for tower in (twin.head.classification_head, twin.head.regression_head):
            tower.conv = tower.conv[: 3 * args.depth]
            for module in tower.modules():
                if isinstance(module, nn.GroupNorm):
                    module.num_groups = norm_groups(args.width)
    else:
        head: Any = RetinaNetHead(args.width, 9, CLASSES, norm)
        for tower in (head.classification_head, head.regression_head):
            tower.conv = tower.conv[: args.depth]
        twin = RetinaNet(backbone, CLASSES, anchor_generator=_default_anchorgen(), head=head)
    twin.transform = GeneralizedRCNNTransform(args.size, args.size, list(MEAN), list(STD))
    module_twin: nn.Module = twin
    return module_twin


def make_step(model: nn.Module, losses: Callable[[], dict[str, Tensor]], bf16: bool) -> Step:
    """Forward, loss, backward, SGD."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9)
    device = next(model.parameters()).device.type

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            terms = losses()
        torch.autograd.backward(torch.stack([term.sum() for term in terms.values()]).sum())
        optimizer.step()
        optimizer.zero_grad()

    return step


def contenders(args: argparse.Namespace) -> dict[str, Step]:
    """All of them, by name."""
    device = torch.device(args.device)
    batch = Batch(*(part.to(device) for part in make_batch(args.batch, args.size, args.objects)))
    images = list(batch.images.float() / 255)
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid]}
        for boxes, labels, valid in zip(batch.boxes, batch.labels, batch.valid, strict=True)
    ]
    steps: dict[str, Step] = {}
    ours: list[tuple[str, Callable[..., DenseDetector]]] = [
        ("fcos", fcos),
        ("retinanet", retinanet),
        ("atss", atss),
    ]
    for kind, factory in ours:
        model = factory(
            args.backbone,
            CLASSES,
            width=args.width,
            depth=args.depth,
            freeze_bn=True,
            freeze_stem=True,
        ).to(device)
        if args.device == "cuda":
            model.to(memory_format=torch.channels_last)
        run: Any = torch.compile(model, fullgraph=True) if args.compile else model
        steps[f"scalewise {kind}"] = make_step(model, partial(run, batch), args.bf16)
    for kind in ("fcos", "retinanet"):
        for suffix, layout in (
            ("", torch.contiguous_format),
            (", channels last", torch.channels_last),
        ):
            twin: Any = torchvision_twin(kind, args).to(device).to(memory_format=layout).train()
            steps[f"torchvision {kind}{suffix}"] = make_step(
                twin, partial(twin, images, targets), args.bf16
            )
    return steps


def measure(steps: dict[str, Step], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of every contender, round by round."""
    repeats: int = args.steps

    def timed(step: Step) -> float:
        if args.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    for step in steps.values():
        for _ in range(3):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name in random.sample(list(steps), len(steps)):
            seconds[name].append(timed(steps[name]))
    return seconds


def table(seconds: dict[str, list[float]], batch: int) -> list[list[str]]:
    """Rows of figures, with a header."""
    rows = [
        ["contender", "images_per_s", "quartiles", "fastest", "over_torchvision", "ratio_quartiles"]
    ]
    for name, times in seconds.items():
        rate = [batch / t for t in times]
        low, _, high = statistics.quantiles(rate, n=4)
        row = [
            name,
            f"{statistics.median(rate):.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{max(rate):.1f}",
        ]
        kind = name.split()[1]
        peers = [s for n, s in seconds.items() if n.split(",")[0] == f"torchvision {kind}"]
        if name.startswith("scalewise") and peers:
            best = min(peers, key=statistics.median)
            ratios = [theirs / mine for theirs, mine in zip(best, times, strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            row += [f"{statistics.median(ratios):.2f}", f"{low:.2f}-{high:.2f}"]
        else:
            row += ["", ""]
        rows.append(row)
    return rows


def processor(device: str) -> str:
    """What it runs on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "CPU")


def write(path: Path, text: str) -> None:
    """Write all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(path.name + ".partial")
    partial_file.write_text(text)
    os.replace(partial_file, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1, help="steps per round")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast for all")
    parser.add_argument("--compile", action="store_true", help="torch.compile for scalewise")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = table(measure(contenders(args), args), args.batch)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    right = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    report = f"""# Images per second of a training step, {args.device}

`python benchmarks/detector_step.py {" ".join(sys.argv[1:])}`

{processor(args.device)}, {args.threads} threads; Python {platform.python_version()},
torch {torch.__version__}, torchvision {version("torchvision")}, scalewise {scalewise.__version__}.

{args.backbone}, {args.size} px, batch {args.batch}, pyramid and head {args.width} wide,
{args.depth} convolutions per tower; forward, loss, backward and SGD. Medians of {args.rounds}
interleaved rounds of {args.steps} step(s).
`over_torchvision` is the median of the ratio, within a round, to the faster of torchvision's two
memory layouts.

{lines[0]}
{right}
{chr(10).join(lines[1:])}
"""
    usual = {name: parser.get_default(name) for name in ("backbone", "size")}
    other = "".join(
        f"_{getattr(args, n)}" for n, value in usual.items() if getattr(args, n) != value
    )
    name = f"detector_step_{args.device}{other}"
    write(args.out / f"{name}.csv", stream.getvalue())
    write(args.out / f"{name}.md", report)
    print(report)


if __name__ == "__main__":
    main()
