"""Seconds of a whole training epoch by our trainer: loading, augmentation, steps, records.

Each way of training runs in a process of its own, one after the other, for the same few epochs; the
first epoch, which warms up and compiles, is shown apart. Validation is timed beside it.

    python benchmarks/epoch.py --data voc:VOC2012 --device cuda --size 320 --batch 32
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from detector_step import processor, write

WAYS = {
    "cache device": ["--cache", "device"],
    "cache device, compile graphs": ["--cache", "device", "--compile", "graphs"],
    "cache ram": ["--cache", "ram"],
    "cache none": ["--cache", "none"],
}
COMMAND = "import sys; from scalewise.cli import main; sys.exit(main())"


def run(way: str, args: argparse.Namespace, folder: Path) -> list[str]:
    """Train in one way; the table's row, or the reason why it failed."""
    words = ["train", "--out", str(folder), "--name", "run", "--progress", "plain"]
    for name in ("data", "detector", "backbone", "size", "width", "depth", "epochs", "precision"):
        words += [f"--{name}", str(getattr(args, name))]
    accelerator = "gpu" if args.device == "cuda" else "cpu"
    words += ["--batch_size", str(args.batch), "--accelerator", accelerator, *WAYS[way]]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return [way, f"failed: {' '.join(last)[:200]}", "", "", "", ""]
    history = json.loads((folder / "run" / "metrics.json").read_text())["history"]
    steps = history[0]["step"]
    first, *later = [steps * epoch["step_seconds"] for epoch in history]
    return [
        way,
        f"{first:.2f}",
        f"{statistics.median(later):.2f}",
        f"{min(later):.2f}-{max(later):.2f}",
        f"{steps * args.batch / statistics.median(later):.0f}",
        f"{statistics.median(epoch['validation_seconds'] for epoch in history[1:]):.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--detector", default="atss")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4, help="at least 2")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out", type=Path, default=Path("results"))
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs: the first one warms up, so at least 2")
    head = ["way", "first epoch, s", "later, median s", "least and most", "images/s"]
    rows = [[*head, "validation, s"]]
    for way in args.ways:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(way, args, Path(folder)))
        print(*rows[-1], sep="  ", flush=True)
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        right = "| --- |" + " ---: |" * (len(rows[0]) - 1)
        text = f"""# Seconds of a training epoch, {args.device}

`{shlex.join(["python", "benchmarks/epoch.py", *sys.argv[1:]])}`

{processor(args.device)}; Python {platform.python_version()}, torch {torch.__version__}.
{args.detector} on {args.backbone}, {args.size} px, batch {args.batch}, {args.precision}, pyramid
and head {args.width} wide, {args.depth} convolutions per tower. Loading, augmentation, steps and
records; validation apart.

{lines[0]}
{right}
{chr(10).join(lines[1:])}
"""
        write(args.out / f"epoch_{args.device}.md", text)


if __name__ == "__main__":
    main()
