"""How the cost of a training step grows with images, classes, levels and image side.

The detector is ATSS, with equal weights (the plain loss) and with weights by class (`avw`). One of
the four varies at a time; the others stay at the middle setting. A step is forward, loss, backward
and SGD. In every round each setting takes one step with each kind of weights, in a new random
order, so that a slow moment of the machine hits all of them. Figures are medians over the rounds,
and ratios are computed within a round. Finished rounds are kept in OUT/growth_DEVICE.json, so that
the next call goes on where the last one stopped.

    python benchmarks/growth.py --threads 2
    python benchmarks/growth.py --device cuda --width 256 --depth 4
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from detector_step import make_batch, processor, write
from matplotlib.figure import Figure
from torch import Tensor, nn

import scalewise as sw
from scalewise.detectors import Batch, DenseDetector
from scalewise.files import whole
from scalewise.lab.detectors.pyramid import STRIDES

KINDS = ("equal", "by class")
OBJECTS = 8  # in an image


@dataclass(frozen=True)
class Setting:
    """What a step is made of: images in a batch, classes, levels from P3 on, side in pixels."""

    images: int = 8
    classes: int = 20
    levels: int = 5
    side: int = 256


AXES: dict[str, Sequence[int]] = {
    "images": (1, 2, 4, 8, 16, 32),
    "classes": (1, 5, 20, 80),
    "levels": (3, 4, 5),
    "side": (128, 192, 256, 320, 448, 640),
}
Seconds = dict[str, dict[str, list[float]]]
"""Seconds a step by setting and kind, one of each round."""


def settings(axes: dict[str, Sequence[int]], middle: Setting) -> dict[str, list[Setting]]:
    """The settings along each axis."""
    return {axis: [replace(middle, **{axis: v}) for v in values] for axis, values in axes.items()}


class FirstLevels(nn.Module):
    """A pyramid of fewer levels."""

    def __init__(self, pyramid: nn.Module, levels: int) -> None:
        super().__init__()
        self.pyramid, self.levels = pyramid, levels

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Its finest levels."""
        return list(self.pyramid(features))[: self.levels]


def make_detector(setting: Setting, kind: str, args: argparse.Namespace) -> DenseDetector:
    """ATSS with the classes and the levels of a setting."""
    names = [str(label) for label in range(setting.classes)]
    grouping = sw.by_class(names) if kind == "by class" else None
    strides = STRIDES[: setting.levels]
    with patch("scalewise.lab.detectors.detector.STRIDES", strides):
        detector = sw.detectors.atss(
            args.backbone, setting.classes, width=args.width, depth=args.depth, grouping=grouping
        )
    if len(strides) < len(STRIDES):
        if setting.levels == 3:
            detector.pyramid.fpn.extra_blocks = None
        detector.pyramid = FirstLevels(detector.pyramid, setting.levels)  # type: ignore[assignment]
    device: str = args.device
    return detector.to(device).to(memory_format=torch.channels_last)


def make_step(setting: Setting, kind: str, args: argparse.Namespace) -> Callable[[], None]:
    """Forward, loss, weights, backward, SGD."""
    torch.manual_seed(0)
    detector = make_detector(setting, kind, args)
    balancer = None
    if kind == "by class":
        balancer = sw.LossBalancer(detector.group_names, "avw", by="class").to(args.device)
    parts = make_batch(setting.images, setting.side, OBJECTS)
    parts = parts._replace(labels=parts.labels % setting.classes)
    batch = Batch(*(part.to(args.device) for part in parts))
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        losses = torch.stack(list(detector(batch).values())).sum(0)
        total = losses.sum() if balancer is None else balancer(losses, detector.positives)
        torch.autograd.backward(total)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds_of(step: Callable[[], None], device: str) -> float:
    """How long a step takes."""
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def setup(args: argparse.Namespace) -> dict[str, object]:
    """What the figures depend on beside the settings."""
    chosen = {name: getattr(args, name) for name in ("backbone", "width", "depth", "threads")}
    return chosen | {
        "processor": processor(args.device),
        "torch": torch.__version__,
        "scalewise": sw.__version__,
    }


def name_of(setting: Setting) -> str:
    """Of a setting, in the file."""
    return ",".join(f"{name}={value}" for name, value in asdict(setting).items())


def read_rounds(path: Path, here: dict[str, object], wanted: list[Setting]) -> Seconds:
    """What the file holds of whole rounds over the wanted settings; nothing where there is none."""
    found: Seconds = {name_of(s): {kind: [] for kind in KINDS} for s in wanted}
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["setup"] != here or kept.get("rounds", {}).keys() != found.keys():
            sys.exit(f"{path} holds other settings or was measured on {kept['setup']}: set --out")
        found = kept["rounds"]
    return found


def measured(path: Path, wanted: list[Setting], args: argparse.Namespace) -> Seconds:
    """The rounds that the file holds, and those missing, which are measured and kept there."""
    here = setup(args)
    found = read_rounds(path, here, wanted)
    done = len(next(iter(found.values()))[KINDS[0]])
    if done >= args.rounds:
        return found
    # the largest first: once a process has had much memory, it keeps it, and later steps are faster
    by_size = sorted(wanted, key=lambda s: -s.images * s.side**2)
    steps = {(name_of(s), kind): make_step(s, kind, args) for s in by_size for kind in KINDS}
    for step in steps.values():
        step()
    for number in range(done, args.rounds):
        for name, kind in random.Random(number).sample(list(steps), len(steps)):
            found[name][kind].append(seconds_of(steps[name, kind], args.device))
        write(path, json.dumps({"setup": here, "rounds": found}, indent=1) + "\n")
        print(f"round {number + 1} of {args.rounds}", flush=True)
    return found


def rows(along: dict[str, list[Setting]], seconds: Seconds) -> list[list[str]]:
    """The table, with a header; the last two columns say how often the least setting's time."""
    table = [["varied", "to", *(f"{k}, ms" for k in KINDS), *(f"{k}, times" for k in KINDS)]]
    for axis, points in along.items():
        first = seconds[name_of(points[0])]
        for point in points:
            found = seconds[name_of(point)]
            times = [
                statistics.median(a / b for a, b in zip(found[kind], first[kind], strict=True))
                for kind in KINDS
            ]
            table.append(
                [axis, str(getattr(point, axis))]
                + [f"{1e3 * statistics.median(found[kind]):.1f}" for kind in KINDS]
                + [f"{ratio:.2f}" for ratio in times]
            )
    return table


def draw(path: Path, along: dict[str, list[Setting]], seconds: Seconds) -> None:
    """A panel an axis, a line a kind, both axes logarithmic."""
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(along), sharey=True, squeeze=False)[0]
    for panel, (axis, points) in zip(panels, along.items(), strict=True):
        places = [getattr(point, axis) for point in points]
        for kind, color in zip(KINDS, ("#7f7f7f", "#0b62a8"), strict=True):
            values = [1e3 * statistics.median(seconds[name_of(point)][kind]) for point in points]
            panel.loglog(places, values, "o-", color=color, label=kind)
        panel.set_xticks(places, [str(place) for place in places])
        panel.minorticks_off()
        panel.set_xlabel({"side": "side of an image, pixels"}.get(axis, axis))
    panels[0].set_ylabel("ms a training step")
    panels[0].legend(frameon=False)
    with whole(path) as aside:
        figure.savefig(aside, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    middle = Setting()
    along = settings(AXES, middle)
    path = args.out / f"growth_{args.device}.json"
    wanted = list(dict.fromkeys(s for points in along.values() for s in points))
    seconds = measured(path, wanted, args)
    done = len(seconds[name_of(middle)][KINDS[0]])
    table = rows(along, seconds)
    lines = ["| " + " | ".join(row) + " |" for row in table]
    right = "| --- |" + " ---: |" * (len(table[0]) - 1)
    picture = path.with_suffix(".png")
    report = f"""# How a training step's cost grows, {args.device}

`{shlex.join(["python", "benchmarks/growth.py", *sys.argv[1:]])}`

{processor(args.device)}, {args.threads} threads; Python {platform.python_version()}, torch
{torch.__version__}, scalewise {sw.__version__}. ATSS on {args.backbone}, pyramid and head
{args.width} wide, {args.depth} convolutions per tower, {OBJECTS} objects an image or less; forward,
loss, backward and SGD. In each of {done} rounds every setting and kind takes one step, in random
order; medians over the rounds, and of the ratios within them. What does not vary is
{name_of(middle)}.

![Milliseconds a step along each axis]({picture.name})

{lines[0]}
{right}
{chr(10).join(lines[1:])}
"""
    draw(picture, along, seconds)
    write(path.with_suffix(".md"), report)
    print(report)


if __name__ == "__main__":
    main()
