"""How the cost of a training step grows with images, classes, levels and image side.

ATSS, with equal weights (the plain loss) and with weights by class (`avw`). One of the four varies
at a time, the others stay at the middle setting. A step is forward, loss, backward and SGD. The two
take turns in every round, and the figures are medians over the rounds. Settings that were measured
are kept in OUT/growth_DEVICE.json, so that a call goes on where another one stopped.

    python benchmarks/growth.py --threads 2
    python benchmarks/growth.py --device cuda --width 256 --depth 4
"""

from __future__ import annotations

import argparse
import json
import platform
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
from scalewise.files import whole
from scalewise.lab.detectors import Batch, DenseDetector
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
Seconds = dict[str, dict[str, float]]
"""Seconds a step by setting and kind."""


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


def measure(setting: Setting, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a step of each kind."""
    steps = {kind: make_step(setting, kind, args) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(args.rounds + 1):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first warms up
                times[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(found) for kind, found in times.items()}


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


def measured(
    path: Path, wanted: list[Setting], args: argparse.Namespace, say: Callable[[str], None] = print
) -> Seconds:
    """What the file holds, and what is missing in it, which is measured and kept there."""
    here, found = setup(args), dict[str, dict[str, float]]()
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["setup"] != here:
            sys.exit(f"{path} was measured with {kept['setup']}, and this is {here}: set --out")
        found = kept["seconds"]
    missing = [s for s in dict.fromkeys(wanted) if name_of(s) not in found]
    if missing:  # once a process has had much memory, it keeps it, and all later steps are faster
        make_step(max(wanted, key=lambda s: s.images * s.side**2), KINDS[0], args)()
    for setting in dict.fromkeys(wanted):
        name = name_of(setting)
        if name not in found:
            found[name] = measure(setting, args)
            write(path, json.dumps({"setup": here, "seconds": found}, indent=1) + "\n")
            say(f"{name}: " + ", ".join(f"{k} {1e3 * s:.1f} ms" for k, s in found[name].items()))
    return found


def rows(along: dict[str, list[Setting]], seconds: Seconds) -> list[list[str]]:
    """The table, with a header; the last two columns say how often the least setting's time."""
    table = [["varied", "to", *(f"{k}, ms" for k in KINDS), *(f"{k}, times" for k in KINDS)]]
    for axis, points in along.items():
        first = seconds[name_of(points[0])]
        for point in points:
            found = seconds[name_of(point)]
            table.append(
                [axis, str(getattr(point, axis))]
                + [f"{1e3 * found[kind]:.1f}" for kind in KINDS]
                + [f"{found[kind] / first[kind]:.2f}" for kind in KINDS]
            )
    return table


def draw(path: Path, along: dict[str, list[Setting]], seconds: Seconds) -> None:
    """A panel an axis, a line a kind, both axes logarithmic."""
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(along), sharey=True, squeeze=False)[0]
    for panel, (axis, points) in zip(panels, along.items(), strict=True):
        places = [getattr(point, axis) for point in points]
        for kind, color in zip(KINDS, ("#7f7f7f", "#0b62a8"), strict=True):
            values = [1e3 * seconds[name_of(point)][kind] for point in points]
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    middle = Setting()
    along = settings(AXES, middle)
    path = args.out / f"growth_{args.device}.json"
    seconds = measured(path, [s for points in along.values() for s in points], args)
    table = rows(along, seconds)
    lines = ["| " + " | ".join(row) + " |" for row in table]
    right = "| --- |" + " ---: |" * (len(table[0]) - 1)
    picture = path.with_suffix(".png")
    report = f"""# How a training step's cost grows, {args.device}

`{shlex.join(["python", "benchmarks/growth.py", *sys.argv[1:]])}`

{processor(args.device)}, {args.threads} threads; Python {platform.python_version()}, torch
{torch.__version__}, scalewise {sw.__version__}. ATSS on {args.backbone}, pyramid and head
{args.width} wide, {args.depth} convolutions per tower, {OBJECTS} objects an image or less; forward,
loss, backward and SGD. Medians of {args.rounds} rounds. What does not vary is {name_of(middle)}.
Settings are measured one after another, so that the state of the process hits some of them alone:
where the middle setting lies above both its neighbours on an axis, that is it.

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
