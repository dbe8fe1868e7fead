"""Kill trainings and studies at random moments, go on, and compare with those left alone.

python benchmarks/kill.py --trainings 30 --studies 4

A training runs in a forked process, so that hundreds of moments cost minutes. Half of the moments
are points of time; the other half are the opening or renaming of a file, or a few milliseconds
after it, so that checkpoints are hit while they are written. Every killed run goes on until it is
done, and may be killed again. It must then equal the undisturbed one: every tensor of both
checkpoints, optimizer and weighting state included, every row of the trace, every figure but times.
A study is killed with `kill -9` to `scalewise compare`, and called again.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from scalewise.data import open_split
from scalewise.lab.study.plan import Cell, cell_folder
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.reading import read_checkpoint
from scalewise.lab.training.runs import load_metrics
from scalewise.lab.training.trace import read_trace

MOST_KILLS = 3  # of one run
LOG = Path(tempfile.gettempdir()) / f"kill-{os.getpid()}.log"  # of the process that ran last
TIMES = ("seconds", "rate")  # endings of figures that no two runs share


def config(folder: Path) -> TrainConfig:
    """A training of seconds that has all that a state can be in: average, policy, momentum."""
    return TrainConfig(
        data=f"demo:images=20,size=64,folder={folder / 'data'}",
        out=str(folder),
        backbone="mobilenet_v3_small",
        width=16,
        depth=1,
        size=64,
        batch_size=4,
        scheme="rlo",
        by="class",
        epochs=3,
        interval=2,
        accumulate=2,
        ema=0.9,
        gradient_every=3,
        checkpoint_every=1,
        warmup=2,
        log_every=2,
        workers=0,
        accelerator="cpu",
        progress="plain",
    )


def in_fork(
    work: Callable[[], object], kill: Callable[[], None] | None = None
) -> tuple[int, float]:
    """Run `work` in a forked process that prints to `LOG`; its exit status and seconds.

    Args:
        work: What it does.
        kill: Called in it first, to set up its end.
    """

    def inside() -> None:
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        if kill is not None:
            kill()
        work()

    process = multiprocessing.get_context("fork").Process(target=inside)
    start = time.perf_counter()
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode, time.perf_counter() - start


def at_time(seconds: float) -> Callable[[], None]:
    """The end after so many seconds; no code of the process hears of it."""

    def setup() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(1e-4, seconds))

    return setup


def at_file(folder: Path, number: int, delay: float) -> Callable[[], None]:
    """The end when the `number`-th file in `folder` is opened to write or renamed, or soon after.

    Args:
        folder: Below which files count.
        number: From 1.
        delay: Seconds after it; 0 is before it happens.
    """

    def setup() -> None:
        left = [number]

        def hook(event: str, args: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(args[1], str) and "r" not in args[1]
            if not (writes or event == "os.rename") or str(folder) not in str(args[0]):
                return
            left[0] -= 1
            if left[0] == 0:
                if not delay:
                    os.kill(os.getpid(), signal.SIGKILL)
                signal.setitimer(signal.ITIMER_REAL, delay)

        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # here, not in the hook: it may be a thread's
        sys.addaudithook(hook)

    return setup


def differences(one: Path, other: Path) -> Iterator[str]:
    """What differs between two runs that should be alike."""
    for kind in ("best", "last"):
        pair = [read_checkpoint(run / "checkpoints" / f"{kind}.ckpt") for run in (one, other)]
        yield from _unequal(f"{kind}.ckpt", *pair)
    if not read_trace(one / "trace.parquet").equals(read_trace(other / "trace.parquet")):
        yield "trace.parquet"
    yield from _unequal("metrics.json", load_metrics(one), load_metrics(other))
    yield from (f"leftover {path.name}" for path in other.rglob(".*"))


def _unequal(name: str, one: Any, other: Any) -> Iterator[str]:
    if name.endswith(TIMES):
        return
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not torch.equal(one, other):
            yield name
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key, value in one.items():
            yield from _unequal(f"{name}/{key}", value, other[key])
    elif isinstance(one, list | tuple) and len(one) == len(other):
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _unequal(f"{name}/{place}", a, b)
    elif type(one) is not type(other) or (one == one and one != other):  # NaN is like NaN
        yield f"{name}: {one} and {other}"


def kill_training(
    folder: Path, whole: Path, seconds: float, draw: random.Random, counts: Counter[str]
) -> list[str]:
    """Kill one training until it is done or was killed enough, and compare it."""
    run = folder / "killed"
    own = dataclasses.replace(config(folder), name=run.name)
    for attempt in range(MOST_KILLS + 1):
        begun = (run / "checkpoints" / "last.ckpt").is_file()
        if begun:
            read_checkpoint(run / "checkpoints" / "last.ckpt")  # whole, whenever it was killed
        else:
            shutil.rmtree(run, ignore_errors=True)  # nothing was saved yet
        kill: Callable[[], None] | None = None
        if attempt < MOST_KILLS and (attempt == 0 or draw.random() < 0.5):
            kind = draw.choice(["time", "file"])
            if kind == "time":
                kill = at_time(draw.uniform(0, seconds))
            else:
                kill = at_file(run, draw.randint(1, 60), draw.choice([0, draw.uniform(0, 0.005)]))
        status, _ = in_fork((lambda: resume(run)) if begun else (lambda: train(own)), kill)
        if status == 0:
            break
        if status not in (-signal.SIGKILL, -signal.SIGALRM):
            shutil.rmtree(run)
            return [f"exit status {status}: {LOG.read_text().splitlines()[-1]}"]
        counts[f"killed at a {kind}"] += 1
        counts["with a checkpoint to go on from"] += (run / "checkpoints/last.ckpt").is_file()
        counts["with a file half-written"] += any(run.rglob(".*"))
    found = list(differences(whole, run))
    shutil.rmtree(run)
    return found


def kill_study(
    folder: Path, seconds: float, draw: random.Random, counts: Counter[str]
) -> list[str]:
    """Kill one study at a moment, call it again, and compare its runs with the undisturbed ones."""
    killed = folder / "study-killed"
    with subprocess.Popen(_command(folder, killed), **_QUIET) as process:
        try:
            process.wait(draw.uniform(0.2, 1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            counts["studies killed"] += 1
    done = subprocess.run(_command(folder, killed), check=False, **_QUIET)
    found = [] if done.returncode == 0 else [f"exit status {done.returncode}"]
    for scheme in ("equal", "rlo"):
        pair = [cell_folder(s, Cell("atss", scheme, 0)) for s in (folder / "study", killed)]
        found += differences(pair[0], pair[1])
    shutil.rmtree(killed)
    return found


_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _command(folder: Path, study: Path) -> list[str]:
    """The call of a study; its file is made at the first."""
    file = folder / "plan.yaml"
    if not file.is_file():
        varied = {"detector", "scheme", "seed", "out", "name"}
        options = {k: v for k, v in dataclasses.asdict(config(folder)).items() if k not in varied}
        grid = {"schemes": ["equal", "rlo"], "seeds": [0], "detectors": ["atss"]}
        file.write_text(yaml.safe_dump(grid | options | {"epochs": 2}))
    words = [sys.executable, "-m", "scalewise", "compare", "--config", str(file)]
    return [*words, "--out", str(study)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=30)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    draw, counts, wrong = random.Random(options.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = dataclasses.replace(config(folder), name="whole")
        open_split(alone.data, "train")  # made before the clock runs
        status, seconds = in_fork(lambda: train(alone))
        assert status == 0, "the undisturbed training failed"
        for number in range(options.trainings):
            found = kill_training(folder, folder / "whole", seconds, draw, counts)
            wrong += [f"training {number}: {line}" for line in found[:5]]
            counts["trainings"] += 1
        if options.studies:
            start = time.perf_counter()
            subprocess.run(_command(folder, folder / "study"), check=True, **_QUIET)
            seconds = time.perf_counter() - start
        for number in range(options.studies):
            found = kill_study(folder, seconds, draw, counts)
            wrong += [f"study {number}: {line}" for line in found[:5]]
            counts["studies"] += 1
    print("\n".join([*(f"{count:5} {what}" for what, count in counts.items()), *wrong]))
    print(f"{len(wrong)} differences from the undisturbed runs")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
