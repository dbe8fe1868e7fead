"""How long commands take to answer, as a multiple of `python -c "import torch"`.

In every round all commands take turns, `import torch` among them. Ratios are computed within a
round, so that a slow moment of the machine hits all of them. `train` to its first step runs until a
batch has reached the detector, on a data set that was drawn before.

    python benchmarks/start.py
    python benchmarks/start.py --source /path/to/another/checkout/src
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scalewise.files import write_text

TORCH = "import torch"
COMMAND = "import sys; from scalewise.cli import main; sys.exit(main())"
FIRST_STEP = """
import importlib.abc, importlib.machinery, os, sys
HOMES = ("scalewise.lab.training.module", "scalewise.training.module")  # now, and before
class Ending(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in HOMES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def end(module):
            load(module)
            module.DetectionModule.training_step = lambda *_: os._exit(0)
        spec.loader.exec_module = end
        return spec
sys.meta_path.insert(0, Ending())
from scalewise.cli import main
sys.exit(main())
"""
RUN = """
import sys
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import train
train(TrainConfig(data="demo", out="runs", name="run", size=64, backbone="mobilenet_v3_small",
                  width=16, depth=1, epochs=1, workers=0))
"""
CALLS: dict[str, tuple[str, list[str], int]] = {
    TORCH: (TORCH, [], 0),
    "scalewise --help": (COMMAND, ["--help"], 0),
    "train --help": (COMMAND, ["train", "--help"], 0),
    "train --epochs zero": (COMMAND, ["train", "--data", "demo", "--epochs", "zero"], 2),
    "train --data nowhere": (COMMAND, ["train", "--data", "nowhere"], 1),
    "evaluate nowhere": (COMMAND, ["evaluate", "nowhere"], 1),
    "report nowhere": (COMMAND, ["report", "nowhere"], 1),
    "evaluate RUN": (COMMAND, ["evaluate", "runs/run", "--checkpoint", "last"], 0),
    "predict RUN": (COMMAND, ["predict", "runs/run", "runs/run/groups.png", "--checkpoint", "last"],
                    0),
    "report RUN": (COMMAND, ["report", "runs/run"], 0),
    "train to its first step": (FIRST_STEP, ["train", "--data", "demo", "--workers", "0"], 0),
}  # fmt: skip


def seconds(name: str, folder: Path, source: Path | None) -> float:
    """How long one call takes; it ends the script where the call does not end as it should."""
    code, words, status = CALLS[name]
    path = {} if source is None else {"PYTHONPATH": str(source.resolve())}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=dict(os.environ) | path,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.perf_counter() - start
    if done.returncode != status:
        sys.exit(f"{name}: exit status {done.returncode}, not {status}: {done.stderr[-500:]}")
    return took


def table(times: dict[str, list[float]]) -> list[str]:
    """A Markdown table: the median seconds of each call and its ratio to `import torch`."""
    lines = [
        "| call | seconds | times `import torch` | quartiles |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, took in times.items():
        ratios = [one / torch for one, torch in zip(took, times[TORCH], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        lines.append(
            f"| `{name}` | {statistics.median(took):.2f} | {middle:.2f} | {low:.2f}-{high:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="at least 2")
    parser.add_argument("--source", type=Path, help="src folder of another checkout to measure")
    parser.add_argument("--only", nargs="+", choices=list(CALLS), help="calls; default: all")
    parser.add_argument("--out", type=Path, help="Markdown file to write; default: print only")
    args = parser.parse_args()
    names = [TORCH, *(name for name in args.only or CALLS if name != TORCH)]
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", RUN], cwd=folder, check=True, capture_output=True)
        for _ in range(args.rounds):
            for name in names:
                times[name].append(seconds(name, Path(folder), args.source))
    text = "\n".join(table(times)) + "\n"
    print(text)
    if args.out is not None:
        write_text(args.out, text)


if __name__ == "__main__":
    main()
