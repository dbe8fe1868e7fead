"""What level weights cost: time of a training step with and without scalewise.

Each detector is trained three times from the same weights on the same batch: plain, weighted, and
plain again. The two plain ones show how far the machine's noise alone moves a ratio. A step is
forward, loss, backward and SGD. The three take turns in a new random order in every round, and
ratios are computed within a round. The interval contains the median ratio with a probability of at
least 95 % (from order statistics, without assumptions on the noise).

    python benchmarks/overhead.py --threads 2
    python benchmarks/overhead.py --device cuda --size 640 --batch 16 --bf16
    python benchmarks/overhead.py --profile
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from detector_step import CLASSES, make_batch, processor, write
from scipy.stats import binom
from torch import Tensor, nn

import scalewise as sw
from scalewise.detectors import Batch

Losses = Callable[[], Tensor]
CONTENDERS = ("plain", "weighted", "plain again")


@dataclass(frozen=True)
class Pair:
    """A detector and how to put level weights on it.

    Attributes:
        model: in training mode, on the device.
        losses: (model) -> a function that returns the total loss of the batch.
        weigh: (model) -> the same with level weights, made on a copy of the model.
    """

    model: nn.Module
    losses: Callable[[Any], Losses]
    weigh: Callable[[Any], Losses]


def batch_of(args: argparse.Namespace) -> Batch:
    """On the device."""
    return Batch(*(part.to(args.device) for part in make_batch(args.batch, args.size, 8)))


def torchvision_pair(name: str, args: argparse.Namespace) -> Pair:
    """A model of torchvision with ResNet50, its size fixed to that of the images."""
    make = getattr(torchvision.models.detection, name)
    model = make(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1,
        min_size=args.size, max_size=args.size,
    )  # fmt: skip
    batch = batch_of(args)
    images = list(batch.images.float() / 255)
    targets = [
        {"boxes": boxes[valid], "labels": labels[valid] + 1}
        for boxes, labels, valid in zip(batch.boxes, batch.labels, batch.valid, strict=True)
    ]

    def losses(model: Any) -> Losses:
        return lambda: torch.stack(list(model(images, targets).values())).sum()

    def weigh(model: Any) -> Losses:
        sw.attach(model, args.by, args.scheme)
        return losses(model)

    return Pair(model, losses, weigh)


def own_pair(args: argparse.Namespace) -> Pair:
    """Our ATSS: the losses come by group, so that plain means to add them up."""
    model = sw.detectors.atss("mobilenet_v2", CLASSES, width=64, depth=2)
    batch = batch_of(args)
    names = [str(label) for label in range(CLASSES)]
    groupings = {"class": sw.by_class(names), "size": sw.by_size()}

    def sums(model: Any) -> Tensor:
        return torch.stack(list(model(batch).values())).sum(0)  # [groups], or [groups + 1]

    def weigh(model: Any) -> Losses:
        if args.by == "level":
            balancer = sw.LossBalancer(model.num_levels, args.scheme).to(args.device)
            return lambda: balancer(sums(model))
        grouping = groupings[args.by]
        model.grouping, model.group_names = grouping, grouping.names
        model.positives = torch.zeros(len(grouping.names), device=args.device)
        balancer = sw.LossBalancer(grouping.names, args.scheme, by=args.by).to(args.device)
        return lambda: balancer(sums(model), model.positives)

    return Pair(model, lambda model: lambda: sums(model).sum(), weigh)


def ultralytics_pair(name: str, args: argparse.Namespace) -> Pair:
    """A YOLO of Ultralytics, with random weights."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(name, nc=CLASSES, verbose=False)
    model.args = get_cfg()
    batch = batch_of(args)
    corner, opposite = batch.boxes[..., :2], batch.boxes[..., 2:]
    boxes = torch.cat(((corner + opposite) / 2, opposite - corner), dim=-1) / args.size
    data = {
        "img": batch.images.float() / 255,
        "bboxes": boxes[batch.valid],
        "cls": batch.labels[batch.valid].float()[:, None],
        "batch_idx": batch.valid.nonzero()[:, 0].float(),
    }

    def losses(model: Any) -> Losses:
        return lambda: model(data)[0].sum()

    def weigh(model: Any) -> Losses:
        sw.attach(model, args.by, args.scheme)
        return losses(model)

    return Pair(model, losses, weigh)


PAIRS: dict[str, Callable[[argparse.Namespace], Pair]] = {
    "torchvision FCOS": partial(torchvision_pair, "fcos_resnet50_fpn"),
    "torchvision RetinaNet": partial(torchvision_pair, "retinanet_resnet50_fpn"),
    "torchvision Faster R-CNN": partial(torchvision_pair, "fasterrcnn_resnet50_fpn"),
    "scalewise ATSS": own_pair,
}
if find_spec("ultralytics"):
    PAIRS["Ultralytics YOLO11n"] = partial(ultralytics_pair, "yolo11n.yaml")


def steps(pair: Pair, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """The three contenders of a pair."""
    made: dict[str, Callable[[], None]] = {}
    for name in CONTENDERS:
        model = copy.deepcopy(pair.model).to(args.device).train()
        total = (pair.weigh if name == "weighted" else pair.losses)(model)
        made[name] = partial(one_step, total, model, args)
    return made


def one_step(total: Losses, model: nn.Module, args: argparse.Namespace) -> None:
    """Forward, loss, backward, SGD at a rate that changes nothing much."""
    with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
        loss = total()
    torch.autograd.backward(loss)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-1e-6)
    model.zero_grad()


def measure(
    contenders: dict[str, Callable[[], None]], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds per step, round by round."""

    def timed(step: Callable[[], None]) -> float:
        if args.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for step in contenders.values():
        for _ in range(3):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + args.seconds
    while time.perf_counter() < end or len(seconds["plain"]) < 8:
        for name in random.sample(list(contenders), len(contenders)):
            seconds[name].append(timed(contenders[name]))
    return seconds


def percent(times: list[float], base: list[float]) -> tuple[float, float, float]:
    """Median of the paired ratio and its interval, as per cent above 1."""
    ratios = sorted(100 * (a / b - 1) for a, b in zip(times, base, strict=True))
    outside = int(binom.ppf(0.025, len(ratios), 0.5))
    low, high = ratios[max(0, outside - 1)], ratios[min(len(ratios), len(ratios) - outside + 1) - 1]
    return statistics.median(ratios), low, high


def row(name: str, seconds: dict[str, list[float]]) -> list[str]:
    """One line of the table."""
    base = seconds["plain"]
    weighted = percent(seconds["weighted"], base)
    null = percent(seconds["plain again"], base)
    return [
        name,
        str(len(base)),
        f"{1000 * statistics.median(base):.1f}",
        f"{weighted[0]:+.2f}",
        f"{weighted[1]:+.2f} to {weighted[2]:+.2f}",
        f"{null[0]:+.2f}",
        f"{null[1]:+.2f} to {null[2]:+.2f}",
    ]


def profile(pair: Pair, args: argparse.Namespace) -> str:
    """The operators that the weighted step calls more often than the plain one.

    Times of single operators drown in noise, so this counts.
    """
    tables = {}
    contenders = steps(pair, args)
    for name in ("plain", "weighted"):
        step = contenders[name]
        step()
        with torch.profiler.profile() as recorded:
            for _ in range(args.rounds):
                step()
        tables[name] = {event.key: event.count / args.rounds for event in recorded.key_averages()}
    plain, weighted = tables["plain"], tables["weighted"]
    more = {key: weighted.get(key, 0) - plain.get(key, 0) for key in plain | weighted}
    operators = {k: n for k, n in more.items() if k.startswith("aten::") and abs(n) > 1e-9}
    most = sorted(operators.items(), key=lambda item: -abs(item[1]))[:10]
    names = ", ".join(f"`{key.removeprefix('aten::')}` {count:+.0f}" for key, count in most)
    return f"{sum(operators.values()):+.0f} operator calls a step: {names}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--by", default="level", choices=["level", "class", "size"])
    parser.add_argument("--scheme", default="rlo")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=60, help="for each detector")
    parser.add_argument("--rounds", type=int, default=3, help="steps that --profile counts")
    parser.add_argument("--only", choices=PAIRS, nargs="+", help="some detectors instead of all")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--profile", action="store_true", help="operations instead of time")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser.parse_args()


def circumstances(args: argparse.Namespace) -> str:
    """What was run, on what, with which versions."""
    yolo = "no ultralytics"
    if find_spec("ultralytics"):
        yolo = f"ultralytics {version('ultralytics')}"
    return f"""`python benchmarks/overhead.py {shlex.join(sys.argv[1:])}`

{processor(args.device)}, {args.threads} threads; Python {platform.python_version()},
torch {torch.__version__}, torchvision {version("torchvision")}, {yolo},
scalewise {sw.__version__}. {args.size} px, batch {args.batch},
{"bfloat16 autocast" if args.bf16 else "float32"}, by {args.by}, scheme {args.scheme}."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    names = args.only or list(PAIRS)
    place = f"{args.device}_{args.size}" + (f"_{args.by}" if args.by != "level" else "")
    head = circumstances(args)
    if args.profile:
        parts = [f"- **{name}**: {profile(PAIRS[name](args), args)}" for name in names]
        text = f"# What level weights add to a step, {args.device}\n\n{head}\n\n"
        text += "Operator calls of the weighted step minus those of the plain one, without an "
        text += "interval's end; composite operators count with what they call.\n\n"
        text += "\n".join(parts) + "\n"
        write(args.out / f"overhead_profile_{place}.md", text)
        print(text)
        return
    rows = [
        [
            "detector",
            "rounds",
            "plain_ms",
            "weighted_percent",
            "interval",
            "null_percent",
            "interval",
        ]
    ]
    for name in names:
        rows.append(row(name, measure(steps(PAIRS[name](args), args), args)))
        print(*rows[-1], flush=True)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    lines = ["| " + " | ".join(line) + " |" for line in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    text = f"""# Time of a training step with weights, {args.device}

{head}
Median over the rounds of the ratio to the plain step within a round, in per cent above 1,
with its 95 % interval; beside it the same for a second plain copy, which is noise alone.

"""
    write(args.out / f"overhead_{place}.csv", stream.getvalue())
    write(args.out / f"overhead_{place}.md", text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
