"""What weighting costs per training step, beside the plain sum and other implementations.

Every method gets the same five level losses and runs forward and backward. In each round all
methods run in a new random order, so that a slow moment of the machine hits all of them, and the
cost above `losses.sum()` is computed within a round. A round holds whole intervals, so what happens
once per interval is spread over its steps.

    python benchmarks/balancer.py --device cpu
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
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from balancer_limit import limit, time_parts, wait_for
from torch import Tensor, nn

import scalewise
from scalewise.weighting import LossBalancer, Static, scheme_names

LEVELS = 5
WIDE = 240  # 80 classes in three sizes
INTERVAL = 100
Contender = Callable[[Tensor], Tensor]


class PlainSum(nn.Module):
    """The least any module can cost."""

    def forward(self, levels: Tensor) -> Tensor:
        """Add up."""
        return levels.sum()


class Weighed(nn.Module):
    """The least a weighted sum can cost, and with a copy of the losses, the least one that records.

    Args:
        device: of the losses.
        record: copy them; a reference would change with losses that are written in place.
    """

    weights: Tensor

    def __init__(self, device: torch.device, record: bool) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(LEVELS, device=device))
        self.rows = torch.zeros(INTERVAL, LEVELS, device=device).unbind(0) if record else ()
        self.next = [0]

    def forward(self, levels: Tensor) -> Tensor:
        """Weigh."""
        if self.rows:
            self.next[0] += 1
            self.rows[self.next[0] % INTERVAL].copy_(levels.detach())
        return torch.dot(levels, self.weights)


class ListBalance:
    """The balance of YOLOv5's autobalance as it is usually written: Python floats, `.item()`."""

    def __init__(self) -> None:
        self.weights = [1.0] * LEVELS

    def __call__(self, levels: Tensor) -> Tensor:
        """Weigh, and renew the weights."""
        total = torch.zeros((), device=levels.device)
        for i, loss in enumerate(levels):
            total = total + loss * self.weights[i]
            self.weights[i] = self.weights[i] * 0.9999 + 0.0001 / loss.detach().item()
        mean = sum(self.weights) / LEVELS
        self.weights = [weight / mean for weight in self.weights]
        return total


class EpochDWA:
    """TorchJD's DWA, its epoch taken as one interval."""

    def __init__(self) -> None:
        from torchjd import scalarization

        self.inner = scalarization.DWA()
        self.calls = 0

    def __call__(self, levels: Tensor) -> Tensor:
        """Weigh, and end the epoch when an interval is over."""
        total: Tensor = self.inner(levels)
        self.calls += 1
        if self.calls % INTERVAL == 0:
            self.inner.step()
        return total


def positives_of(groups: int, device: torch.device) -> Contender:
    """A balancer of groups of positives with losses of its own, the background's too."""
    balancer = LossBalancer(groups, "avw", INTERVAL, by="class").to(device)
    losses = (torch.rand(groups + 1, device=device) + 0.1).requires_grad_()
    positives = torch.full((groups,), 3.0, device=device)
    return lambda levels: balancer(losses, positives)


def contenders(device: torch.device) -> dict[str, Contender]:
    """All of them, by name; the first is the yardstick."""
    found: dict[str, Contender] = {
        "losses.sum()": lambda levels: levels.sum(),
        "losses.sum() in a module": PlainSum(),
        "fixed weights in a module": Weighed(device, record=False),
        "fixed weights in a module that copies the losses": Weighed(device, record=True),
    }
    for name in scheme_names():
        if name in ("effective", "loss", "share"):  # of positives only
            continue
        scheme = Static([1, 2, 3, 2, 1]) if name == "static" else name
        balancer = LossBalancer(LEVELS, scheme, INTERVAL).to(device)
        found[f"scalewise {name}"] = balancer
    for groups in (LEVELS, WIDE):
        found[f"scalewise avw, positives of {groups} groups"] = positives_of(groups, device)
    found["scalewise avw, normalize=loss"] = LossBalancer(
        LEVELS, "avw", INTERVAL, normalize="loss"
    ).to(device)
    never = 10**9
    found["scalewise avw, interval without end"] = LossBalancer(LEVELS, "avw", never).to(device)
    found["scalewise avw, eval"] = LossBalancer(LEVELS, "avw", INTERVAL).to(device).eval()
    if find_spec("torchjd"):
        from torchjd import scalarization

        found["torchjd Sum"] = scalarization.Sum()
        found["torchjd DWA"] = EpochDWA()
        found["torchjd UW"] = scalarization.UW(LEVELS).to(device)
        found["torchjd IMTLL"] = scalarization.IMTLL(LEVELS).to(device)
    found["Python list with .item()"] = ListBalance()
    return found


def round_of(contender: Contender, levels: Tensor, steps: int) -> float:
    """Microseconds per step of forward and backward."""
    levels.grad = None
    wait_for(levels.device)
    # One busy thread and no waiting: its own time leaves out other processes of a shared machine.
    clock = time.perf_counter if levels.is_cuda else time.process_time
    start = clock()
    for _ in range(steps):
        torch.autograd.backward(contender(levels))
    wait_for(levels.device)
    return (clock() - start) / steps * 1e6


def kernels(contender: Contender, levels: Tensor) -> float:
    """GPU kernels and copies per step, over one interval."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
        round_of(contender, levels, INTERVAL)
    events = profile.events() or []
    on_device: int = sum(event.device_type.name == "CUDA" for event in events)
    return on_device / INTERVAL


def measure(device: torch.device, rounds: int, steps: int) -> list[dict[str, str]]:
    """One row of figures per contender, as text."""
    torch.manual_seed(0)
    order = random.Random(0)
    levels = (torch.rand(LEVELS, device=device) + 0.1).requires_grad_()
    field = contenders(device)
    for contender in field.values():
        round_of(contender, levels, steps)
    times: dict[str, list[float]] = {name: [] for name in field}
    for _ in range(rounds):
        for name in order.sample(list(field), len(field)):
            times[name].append(round_of(field[name], levels, steps))
    plain = times["losses.sum()"]
    rows = []
    for name, taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4)
        above = statistics.median(t - p for t, p in zip(taken, plain, strict=True))
        row = {
            "contender": name,
            "median_us": f"{middle:.1f}",
            "quartiles_us": f"{low:.1f}-{high:.1f}",
            "fastest_us": f"{min(taken):.1f}",
            "above_sum_us": f"{above:.1f}",
            "fastest_above_sum_us": f"{min(taken) - min(plain):.1f}",
        }
        if device.type == "cuda":
            row["kernels"] = f"{kernels(field[name], levels):.1f}"
        rows.append(row)
    return rows


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, 1 thread"


def write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    os.replace(partial, path)


def report(rows: list[dict[str, str]], device: torch.device, rounds: int, steps: int) -> str:
    peer = f"torchjd {version('torchjd')}" if find_spec("torchjd") else "without torchjd"
    clock = "wall" if device.type == "cuda" else "processor"
    head = list(rows[0])
    table = [head, ["---", *["---:"] * (len(head) - 1)], *(list(row.values()) for row in rows)]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return f"""# Cost of weighting per step, {device.type}

`python benchmarks/balancer.py {" ".join(sys.argv[1:])}`

{processor(device)}; Python {platform.python_version()}, torch {torch.__version__},
{peer}, scalewise {scalewise.__version__}.

Microseconds of {clock} time per step, forward and backward of {LEVELS} level losses in one
tensor, interval {INTERVAL} with its end spread over its steps; {rounds} interleaved rounds of
{steps} steps. `above_sum_us` is the median over rounds of the difference to `losses.sum()` in the
same round; the fastest round is nearest to an undisturbed machine.

{lines}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the balancer beside other implementations.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=2 * INTERVAL, help="whole intervals")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    if options.steps < 1 or options.steps % INTERVAL or options.rounds < 2:
        parser.error(f"--steps must be a multiple of {INTERVAL} and --rounds at least 2")
    torch.set_num_threads(1)
    device = torch.device(options.device)
    rows = measure(device, options.rounds, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text = report(rows, device, options.rounds, options.steps)
    text += "\n" + limit(rows, time_parts(device, LEVELS, options.rounds))
    write(options.out / f"balancer_{device.type}.csv", buffer.getvalue())
    write(options.out / f"balancer_{device.type}.md", text)
    print(text)


if __name__ == "__main__":
    main()
