"""What weights cost in a training step, where whole steps are too noisy to show it.

The losses per anchor of one step of ATSS are kept. Then what differs between the kinds of weights
is timed alone, forward and backward: the sums by level, class or size, and the balancer. The kinds
take turns in every round. Figures are medians of the difference to the plain sum in the same round,
and shares of a whole training step (forward, loss, backward and SGD), timed in the same rounds.

    python benchmarks/weighing_parts.py --threads 2
"""

from __future__ import annotations

import argparse
import platform
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from detector_step import CLASSES, make_batch, make_step, processor, write

import scalewise as sw
from scalewise.lab.detectors import detector as home
from scalewise.lab.detectors.group_sums import sum_losses

Work = Callable[[], None]


def works(size: int, batch_size: int) -> dict[str, tuple[Work, int]]:
    """What is timed, by name, and how many calls of it a round has."""
    torch.manual_seed(0)
    detector = sw.detectors.atss(
        "mobilenet_v2", CLASSES, width=64, depth=2, freeze_bn=True, freeze_stem=True
    )
    batch = make_batch(batch_size, size, 8)
    with patch.object(home, "sum_losses", wraps=sum_losses) as spy:
        detector.losses(batch)
    found, _, counts, _ = spy.call_args.args
    terms = {name: term.detach().requires_grad_() for name, term in found.terms.items()}  # [B, A]
    found = found._replace(terms=terms)
    groupings = {
        "by level": None,
        "by size": sw.by_size(),
        "by class": sw.by_class([str(label) for label in range(CLASSES)]),
    }

    def plain() -> None:
        sums, _ = sum_losses(found, batch, counts, None)
        torch.autograd.backward(torch.stack(list(sums.values())).sum())

    def weighed(grouping: sw.Grouping | None) -> Work:
        names = detector.group_names if grouping is None else grouping.names
        by = "level" if grouping is None else grouping.by
        balancer = sw.LossBalancer(names, "avw", by=by)

        def work() -> None:
            sums, positives = sum_losses(found, batch, counts, grouping)
            losses = torch.stack(list(sums.values())).sum(0)  # [groups], or [groups + 1]
            torch.autograd.backward(balancer(losses, None if grouping is None else positives))

        return work

    step = make_step(detector, lambda: detector(batch), False)
    kinds = {name: (weighed(grouping), 50) for name, grouping in groupings.items()}
    return {"step": (step, 1), "plain": (plain, 50), **kinds}


def measure(size: int, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one of each round."""
    timed = works(size, batch_size)
    for work, _ in timed.values():
        for _ in range(3):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name in random.sample(list(timed), len(timed)):
            work, calls = timed[name]
            start = time.perf_counter()
            for _ in range(calls):
                work()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 320, 640])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    random.seed(0)
    rows = []
    for size in args.sizes:
        seconds = measure(size, args.batch, args.rounds)
        step = statistics.median(seconds["step"])
        for kind in ("by level", "by size", "by class"):
            above = [a - b for a, b in zip(seconds[kind], seconds["plain"], strict=True)]
            low, middle, high = statistics.quantiles(above, n=4)
            rows.append(
                f"| {size} | {kind} | {1e3 * step:.0f} | {1e6 * middle:.0f} | "
                f"{1e6 * low:.0f} to {1e6 * high:.0f} | {100 * middle / step:.2f} |\n"
            )
            print(rows[-1], end="", flush=True)
    text = f"""# What weights cost in a training step, cpu

`{shlex.join(["python", "benchmarks/weighing_parts.py", *sys.argv[1:]])}`

{processor("cpu")}, {args.threads} threads; Python {platform.python_version()}, torch
{torch.__version__}, scalewise {sw.__version__}. ATSS on MobileNetV2, batch {args.batch}, {CLASSES}
classes, `avw`. Sums by group and balancer, forward and backward, above the plain sum: medians of
{args.rounds} rounds, with quartiles, and their share of a step.

| px | weights | step, ms | above the plain sum, us | quartiles | % of a step |
| ---: | --- | ---: | ---: | ---: | ---: |
{"".join(rows)}"""
    write(args.out / "weighing_parts_cpu.md", text)
    print(text)


if __name__ == "__main__":
    main()
