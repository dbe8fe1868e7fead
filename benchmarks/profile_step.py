"""Profile a training step: kernels, launches, idle time of the device, waits of the host.

python benchmarks/profile_step.py --device cuda --size 320 --batch 32 --bf16
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from detector_step import CLASSES, make_batch, processor
from torch.profiler import ProfilerActivity, profile, record_function

import scalewise as sw
from scalewise.detectors import Batch

MARK = "training step"
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def make_step(args: argparse.Namespace) -> Any:
    """One step of ATSS as `scalewise train` makes it: loss, weights, backward, clipping, AdamW."""
    detector = sw.detectors.atss(
        args.backbone, CLASSES, width=args.width, depth=args.depth, freeze_bn=True, freeze_stem=True
    ).to(args.device)
    if args.device == "cuda":
        detector.to(memory_format=torch.channels_last)
    balancer = sw.LossBalancer(detector.num_levels, args.scheme).to(args.device)
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    batch = Batch(*(part.to(args.device) for part in make_batch(args.batch, args.size, 8)))

    def step() -> None:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
            terms = detector(batch)
        levels = torch.stack(list(terms.values())).sum(0)
        torch.autograd.backward(balancer(levels, detector.positives))
        torch.nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (start, end)."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total


def summary(events: Any, steps: int) -> list[str]:
    """Figures of the recorded events, per step."""
    on_device = [e for e in events if e.device_type.name == "CUDA" and MARK not in e.name]
    names = Counter(e.name for e in events if e.device_type.name == "CPU")
    lines = [
        f"operators called: {sum(n for k, n in names.items() if k[:6] == 'aten::') / steps:.0f}"
    ]
    if on_device:
        spans = [(e.time_range.start, e.time_range.end) for e in on_device]
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        copies = sum(e.name.startswith("Mem") for e in on_device)
        lines += [
            f"kernels: {(len(on_device) - copies) / steps:.0f}",
            f"copies and fills: {copies / steps:.0f}",
            f"launches: {sum(names[name] for name in LAUNCHES) / steps:.0f}",
            f"host waits: {sum(names[name] for name in WAITS) / steps:.1f}",
            f"device busy: {covered(spans) / steps / 1000:.2f} ms",
            f"idle share of the device: {1 - covered(spans) / (last - first):.1%}",
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--scheme", default="rlo")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    args = parser.parse_args()
    torch.manual_seed(0)
    step = make_step(args)
    for _ in range(3):
        step()
    activities = [ProfilerActivity.CPU]
    if args.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as recorded:
        for _ in range(args.steps):
            with record_function(MARK):
                step()
        if args.device == "cuda":
            torch.cuda.synchronize()
    print(
        f"ATSS on {args.backbone}, {args.size} px, batch {args.batch}, width {args.width}, depth "
        f"{args.depth}, {'bfloat16' if args.bf16 else 'float32'}; {processor(args.device)}, torch "
        f"{torch.__version__}. Per step, mean of {args.steps}:"
    )
    print(*summary(recorded.events(), args.steps), sep="\n")
    order = "self_cuda_time_total" if args.device == "cuda" else "self_cpu_time_total"
    print(recorded.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60))


if __name__ == "__main__":
    main()
