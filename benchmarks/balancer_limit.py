"""The least work that a weighted and recorded step needs, for `benchmarks/balancer.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def wait_for(device: torch.device) -> None:
    """Let the queued work of a GPU finish, so that a clock around it is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Nothing(torch.autograd.Function):
    """The least that Python in the graph can cost."""

    @staticmethod
    def forward(ctx: object, levels: Tensor) -> Tensor:
        """Pass on."""
        return levels.view_as(levels)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        """Pass back."""
        return grads[0]


def parts(
    device: torch.device, groups: int
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What a step cannot do without, each with what it is measured above."""
    levels = (torch.rand(groups, device=device) + 0.1).requires_grad_()
    row, weights = torch.zeros(groups, device=device), torch.ones(groups, device=device)
    fixed = levels.detach()
    module = nn.Identity()
    through: Callable[[Tensor], Tensor] = Nothing.apply

    def plain() -> None:
        torch.autograd.backward(levels.sum())

    return {
        "call of an empty `nn.Module`": (lambda: module(0), lambda: 0),
        "`losses.detach()`": (levels.detach, lambda: levels),
        "`row.copy_(losses)`, in place": (lambda: row.copy_(fixed), lambda: levels),
        "`torch.dot` above `.sum()`, both ways": (
            lambda: torch.autograd.backward(torch.dot(levels, weights)),
            plain,
        ),
        "an empty autograd Function, both ways": (
            lambda: torch.autograd.backward(through(levels).sum()),
            plain,
        ),
    }


def time_parts(
    device: torch.device, groups: int, rounds: int, calls: int = 1000
) -> dict[str, float]:
    """Median microseconds of each part above its base, which take turns."""

    def took(work: Callable[[], object]) -> float:
        wait_for(device)
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        for _ in range(calls):
            work()
        wait_for(device)
        return (clock() - start) / calls * 1e6

    return {
        name: statistics.median(took(work) - took(base) for _ in range(rounds))
        for name, (work, base) in parts(device, groups).items()
    }


def limit(rows: list[dict[str, str]], parts: dict[str, float]) -> str:
    """Of what the balancer's time above the sum is made."""
    above = {row["contender"]: float(row["above_sum_us"]) for row in rows}
    plain = float(rows[0]["median_us"])
    whole = above["scalewise avw"]
    end = whole - above["scalewise avw, interval without end"]
    least = sum(list(parts.values())[:4])
    found = {
        **parts,
        "the first four together": least,
        "an interval's end, a step's share": end,
        "the rest: what Python does between them": whole - end - least,
        "the balancer (avw) above `losses.sum()`": whole,
    }
    lines = "\n".join(f"| {name} | {us:.2f} | {us / plain:.2f} |" for name, us in found.items())
    return f"""## Where its limit lies

What a weighted and recorded step cannot do without, timed alone, each as the median difference to
the same loop without it; and the balancer. The second column is in times of `losses.sum()`.

| part | us | times the sum |
| --- | ---: | ---: |
{lines}
"""
