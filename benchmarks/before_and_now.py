"""What became faster or slower since an older commit, measured in one run.

The older commit and this one each run in a process of their own. In every round they take turns at
each task, in random order, and ratios are computed within a round, so that a slow moment of the
machine hits both. Where its memory lies makes a process faster or slower for good, so the processes
are started anew every few rounds. The steps of torchvision's detectors are the same code in both:
their rows show how far noise alone moves a ratio. Commands are timed whole, as a shell sees them.

    git worktree add /tmp/before 55fafdc
    python benchmarks/before_and_now.py --before /tmp/before --threads 2
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parents[1]
STEPS: dict[str, dict[str, Any]] = {
    "192 px": {"size": 192},
    "320 px": {"size": 320},
    "192 px, one image": {"size": 192, "batch": 1},
    "ResNet18, wide": {"size": 192, "backbone": "resnet18", "batch": 4, "width": 256, "depth": 4},
}
"""Settings of a training step: what differs from MobileNetV2, batch 8, width 64, depth 2."""

BALANCER = ("losses.sum()", "scalewise avw", "scalewise avw, positives of 240 groups")
COMMAND = "import sys; from scalewise.cli import main; sys.exit(main())"
SMALL = "--backbone mobilenet_v3_small --width 16 --depth 1 --workers 0 --epochs 2 --name run"
COMMANDS = {
    "`train`, two epochs": "train --data {data} --size 128 --out {out} " + SMALL,
    "`evaluate`": "evaluate {out}/run --checkpoint last",
    "`report`": "report {out}/run",
}
Task = Callable[[], object]


def moved(name: str) -> Any:
    """A module that lay in `scalewise` before it lay in `scalewise.lab`."""
    try:
        return importlib.import_module(f"scalewise.lab.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"scalewise.{name}")


def step_tasks(threads: int) -> dict[str, Task]:
    """A training step of each detector in each setting, with forward, loss, backward and SGD."""
    detector_step = importlib.import_module("detector_step")
    found: dict[str, Task] = {}
    usual: dict[str, Any] = {
        "batch": 8,
        "backbone": "mobilenet_v2",
        "width": 64,
        "depth": 2,
        "objects": 8,
    }
    fixed: dict[str, Any] = {"device": "cpu", "bf16": False, "compile": False, "threads": threads}
    for setting, differs in STEPS.items():
        args = argparse.Namespace(**fixed | usual | differs)
        for name, step in detector_step.contenders(args).items():
            if name.startswith("scalewise") or name.endswith("channels last"):
                found[f"{name}, {setting}"] = step
    return found


def class_task() -> Task:
    """A training step of ATSS with weights by class, at 192 px."""
    import torch
    from detector_step import CLASSES, make_batch, make_step

    import scalewise as sw

    names = [str(label) for label in range(CLASSES)]
    model = sw.detectors.atss(
        "mobilenet_v2",
        CLASSES,
        width=64,
        depth=2,
        freeze_bn=True,
        freeze_stem=True,
        grouping=sw.by_class(names),
    )
    balancer = sw.LossBalancer(names, "avw", by="class")
    batch = make_batch(8, 192, 8)

    def losses() -> dict[str, torch.Tensor]:
        rows = torch.stack(list(model(batch).values())).sum(0)  # [groups + 1]
        return {"total": balancer(rows, model.positives)}

    return make_step(model, losses, False)


def balancer_tasks() -> dict[str, Task]:
    """200 steps of the balancer alone, and of the plain sum."""
    import torch

    balancer = importlib.import_module("balancer")
    levels = (torch.rand(balancer.LEVELS) + 0.1).requires_grad_()
    every = balancer.contenders(torch.device("cpu"))

    def steps(contender: Callable[[torch.Tensor], torch.Tensor]) -> Task:
        return lambda: balancer.round_of(contender, levels, 200)

    return {f"200 steps, {name}": steps(every[name]) for name in BALANCER if name in every}


def evaluation_tasks() -> dict[str, Task]:
    """Detection on a batch of eight, and the scoring of 60,000 detections."""
    import numpy as np
    import torch
    from detector_step import CLASSES, make_batch

    import scalewise as sw

    evaluation = moved("evaluation")
    split_home = moved("data.split")
    record = getattr(split_home, "ImageRecord", None) or moved("data.image_record").ImageRecord
    rng = np.random.default_rng(0)
    records, found = [], []
    for number in range(1, 601):
        parts = make_batch(1, 640, 15)
        valid = parts.valid[0]
        boxes, labels = parts.boxes[0][valid].numpy(), parts.labels[0][valid].numpy()
        none = np.zeros(len(boxes), dtype=bool)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        path = Path(f"{number}.png")
        records.append(record(number, path, 640, 640, boxes, labels, none, none, area))
        near = rng.integers(0, len(boxes), 100)
        jittered = (boxes[near] + rng.normal(0, 4, (100, 4))).astype(np.float32)
        jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
        right = rng.random(100) < 0.5
        called = np.where(right, labels[near], rng.integers(0, CLASSES, 100))
        scores, levels = rng.random(100).astype(np.float32), np.zeros(100, dtype=np.int64)
        found.append(evaluation.ImageDetections(number, jittered, scores, called, levels))
    names = tuple(f"class {i}" for i in range(CLASSES))
    ids = tuple(range(1, CLASSES + 1))
    split = split_home.Split("coco", "timed", "made up", names, ids, records)

    detector: Any = sw.detectors.atss("mobilenet_v2", CLASSES, width=128, depth=2).eval()
    detector.score_threshold = 0.0
    batch = make_batch(8, 320, 8)

    def detect() -> object:
        with torch.no_grad():
            return evaluation.to_original(detector(batch), batch)

    return {
        "detection, 8 images of 320 px": detect,
        "COCO's metrics of 60,000 detections": lambda: evaluation.coco_metrics(split, found),
        "VOC's metrics of 60,000 detections": lambda: evaluation.voc_metrics(split, found),
    }


def serve(checkout: Path, threads: int) -> None:
    """Do the tasks whose names come in, a line each, and answer with the seconds each took."""
    sys.path[0] = str(checkout / "benchmarks")
    sys.path.insert(0, str(checkout / "src"))
    answers, sys.stdout = sys.stdout, sys.stderr
    import torch

    import scalewise

    if not Path(scalewise.__file__).is_relative_to(checkout):
        sys.exit(f"{scalewise.__file__} is not of {checkout}")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tasks = step_tasks(threads)
    tasks["scalewise atss by class, 192 px"] = class_task()
    tasks |= balancer_tasks() | evaluation_tasks()
    for task in tasks.values():
        for _ in range(3):
            task()
    print(json.dumps(list(tasks)), file=answers, flush=True)
    for line in sys.stdin:
        task = tasks[line.strip()]
        time.sleep(0.05)  # threads of the other process have stopped spinning by then
        torch.set_num_threads(1 if line.startswith("200 steps") else threads)
        start = time.perf_counter()
        task()
        print(time.perf_counter() - start, file=answers, flush=True)


class Side:
    """The process that works with one checkout."""

    def __init__(self, checkout: Path, threads: int) -> None:
        self.checkout = checkout
        words = [sys.executable, __file__, "--serve", str(checkout), "--threads", str(threads)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tasks: list[str] = json.loads(self._answer())

    def _answer(self) -> str:
        """Its next line; a process that ended ends this one."""
        stream: IO[str] | None = self.process.stdout
        line = stream.readline() if stream is not None else ""
        if not line:
            sys.exit(f"the process of {self.checkout} ended: see its error above")
        return line

    def seconds(self, task: str) -> float:
        """How long one task takes now."""
        assert self.process.stdin is not None
        print(task, file=self.process.stdin, flush=True)
        return float(self._answer())


def command_seconds(checkout: Path, words: str, folder: Path) -> float:
    """How long one command of a checkout takes, called in a folder."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *shlex.split(words)],
        cwd=folder,
        env=dict(os.environ) | {"PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{checkout}: {words}: exit status {done.returncode}: {done.stderr[-800:]}")
    return time.perf_counter() - start


Seconds = dict[str, tuple[list[float], list[float]]]
"""Seconds of each task: before, now, one of each round."""


def measure(args: argparse.Namespace, folder: Path) -> Seconds:
    """All tasks, and then all commands, in turns."""
    checkouts = (args.before.resolve(), HERE)
    found: Seconds = {}
    order = random.Random(0)
    for number in range(args.restarts):
        sides = [Side(checkout, args.threads) for checkout in checkouts]
        names = [name for name in sides[1].tasks if name in sides[0].tasks]
        for _ in range(args.rounds):
            for name in order.sample(names, len(names)):
                pair = found.setdefault(name, ([], []))
                for which in order.sample((0, 1), 2):
                    pair[which].append(sides[which].seconds(name))
        for side in sides:
            side.process.terminate()
            side.process.wait()
        print(f"{number + 1} of {args.restarts}", file=sys.stderr, flush=True)
    found = {name: found[name] for name in names}
    print("\n".join(table(found)), file=sys.stderr)
    data = Path(args.data).resolve() if Path(args.data).exists() else args.data
    for number in range(-1, args.command_rounds):  # the first round draws the demo set
        outs = [folder / f"{which}-{number}" for which in ("before", "now")]
        for name, words in COMMANDS.items():
            pair = found.setdefault(name, ([], []))
            for which in order.sample((0, 1), 2):
                command = words.format(data=data, out=outs[which])
                seconds = command_seconds(checkouts[which], command, folder)
                if number >= 0:
                    pair[which].append(seconds)
    return found


def table(seconds: Seconds) -> list[str]:
    """A Markdown table; a ratio below 1 is faster than before."""
    lines = [
        "| task | before, ms | now, ms | now / before | quartiles |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (before, now) in seconds.items():
        low, middle, high = statistics.quantiles(
            (b / a for a, b in zip(before, now, strict=True)), n=4, method="inclusive"
        )
        cells = (f"{1e3 * statistics.median(side):.1f}" for side in (before, now))
        lines.append(f"| {name} | {' | '.join(cells)} | {middle:.2f} | {low:.2f}-{high:.2f} |")
    return lines


def beside_torchvision(seconds: Seconds) -> list[str]:
    """A Markdown table: how many times as fast as torchvision's our steps are, within a round."""
    lines = [
        "| step | before | quartiles | now | quartiles |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, own in seconds.items():
        kind, _, setting = name.removeprefix("scalewise ").partition(", ")
        peer = seconds.get(f"torchvision {kind}, channels last, {setting}")
        if peer is None or not name.startswith("scalewise"):
            continue
        cells = []
        for theirs, ours in zip(peer, own, strict=True):
            low, middle, high = statistics.quantiles(
                (a / b for a, b in zip(theirs, ours, strict=True)), n=4, method="inclusive"
            )
            cells += [f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
        lines.append(f"| {kind}, {setting} | {' | '.join(cells)} |")
    return lines


def commit_of(checkout: Path) -> str:
    """The short name of a checkout's commit."""
    words = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="checkout of the older commit")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", default="demo", help="data set of the commands")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--restarts", type=int, default=8, help="pairs of processes")
    parser.add_argument("--rounds", type=int, default=3, help="of each pair of processes")
    parser.add_argument("--command-rounds", type=int, default=3, help="at least 2")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.threads)
        return
    if args.before is None or min(args.restarts * args.rounds, args.command_rounds) < 2:
        parser.error("--before is needed, and at least 2 rounds of each kind")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(args, Path(folder))

    import torch
    from detector_step import processor, write

    text = f"""# Before and now, cpu

`{shlex.join(["python", "benchmarks/before_and_now.py", *sys.argv[1:]])}`

{commit_of(args.before)} beside {commit_of(HERE)}, in turns: {args.restarts} pairs of processes with
{args.rounds} rounds each, and {args.command_rounds} rounds of the commands. {processor("cpu")},
{args.threads} threads (the balancer's steps: 1); Python {platform.python_version()}, torch
{torch.__version__}. Medians; the ratio is computed within a round, and below 1 means faster.

{chr(10).join(table(seconds))}

## Beside torchvision

How many times as fast a step is as torchvision's (channels last), within a round and a process.

{chr(10).join(beside_torchvision(seconds))}
"""
    write(args.out / "before_and_now_cpu.md", text)
    print(text)


if __name__ == "__main__":
    main()
