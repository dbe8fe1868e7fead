"""Kill trainings and studies at random moments, resume them, and compare with undisturbed ones.

python benchmarks/kill.py --trainings 30 --studies 30

A training runs in a forked process, so that hundreds of moments take minutes. A moment is a point
in time, the opening of a file or a few milliseconds later, the writing of a checkpoint, or its
renaming. Every killed run is resumed until it is finished, and may be killed again. It must then
equal the undisturbed run: every tensor of both checkpoints, with optimizer and weighting state,
every row of the trace, and every figure except times. In a study, the script kills `scalewise
compare` alone, or the run that it trains, or both; then it calls the command again.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from kill_moments import LOG, PLACE, Forking, a_moment, in_fork
from tiny_runs import tiny_run

from scalewise import cli
from scalewise.data import open_split
from scalewise.errors import UserError
from scalewise.lab.study import local
from scalewise.lab.study.planned_cells import Cell, cell_folder
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.fit import resume, train
from scalewise.lab.training.reading import read_checkpoint
from scalewise.lab.training.run_metrics import load_metrics
from scalewise.lab.training.trace_reading import read_trace

MOST_KILLS = 3  # kills of one run
TIMES = ("seconds", "rate")  # endings of the names of times, which are not compared


def config(folder: Path) -> TrainConfig:
    """A training of seconds with all kinds of state: average, policy, momentum."""
    return tiny_run(
        folder / "data",
        folder,
        by="class",
        epochs=3,
        interval=2,
        accumulate=2,
        ema=0.9,
        gradient_every=3,
        checkpoint_every=1,
    )


def differences(one: Path, other: Path) -> Iterator[str]:
    """Names of what differs between two runs that should be equal."""
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
    elif type(one) is not type(other) or (one == one and one != other):  # NaN equals NaN
        yield f"{name}: {one} and {other}"


def kill_training(
    folder: Path, whole: Path, seconds: float, draw: random.Random, counts: Counter[str]
) -> list[str]:
    """Kill and resume one training until it is finished, then compare it."""
    run = folder / PLACE
    own = dataclasses.replace(config(folder), name=run.name)
    for attempt in range(MOST_KILLS + 1):
        if (run / "metrics.json").is_file() and load_metrics(run)["status"] == "finished":
            break  # it had finished before it was killed
        begun = (run / "checkpoints" / "last.ckpt").is_file()
        if begun:
            read_checkpoint(run / "checkpoints" / "last.ckpt")  # must be complete
        else:
            shutil.rmtree(run, ignore_errors=True)  # nothing was saved yet
        kind, kill = "", None
        if attempt < MOST_KILLS and (attempt == 0 or draw.random() < 0.5):
            kind, kill = a_moment(draw, seconds)
        status, _ = in_fork((lambda: resume(run)) if begun else (lambda: train(own)), kill)
        if status == 0:
            break
        if status not in (-signal.SIGKILL, -signal.SIGALRM):
            shutil.rmtree(run)
            return [f"exit status {status}: {LOG.read_text().splitlines()[-1]}"]
        counts["trainings killed"] += attempt == 0
        counts[f"training killed {kind}"] += 1
        counts["training with a checkpoint to go on from"] += (
            run / "checkpoints/last.ckpt"
        ).is_file()
        counts["training with a file half-written"] += any(run.rglob(".*"))
    found = list(differences(whole, run))
    shutil.rmtree(run)
    return found


def kill_study(
    folder: Path, seconds: float, draw: random.Random, counts: Counter[str]
) -> list[str]:
    """Kill one study, call it again, and compare its runs with the undisturbed ones."""
    killed = folder / f"{PLACE}-study"
    group = draw.random() < 0.5
    kind, kill = a_moment(draw, seconds, group)
    status, _ = in_fork(lambda: compare(folder, killed), kill)
    runs_failed = LOG.read_text(errors="replace").count("killed by signal")
    if status < 0 or runs_failed:
        counts["studies killed"] += 1
        counts[f"study killed {kind}"] += 1
        whom = "compare and its run" if group else "the run alone" if runs_failed else "compare"
        counts[f"study killed: {whom}"] += 1
        counts["study with a file half-written"] += any(killed.rglob(".*.part*"))
        counts["study with a checkpoint to go on from"] += any(killed.rglob("last.ckpt"))
    status, _ = in_fork(lambda: compare(folder, killed))
    found = [f"exit status {status}: {LOG.read_text().splitlines()[-1]}"] if status else []
    for scheme in ("equal", "rlo"):
        pair = [cell_folder(s, Cell("atss", scheme, 0)) for s in (folder / "study", killed)]
        try:
            found += differences(pair[0], pair[1])
        except UserError as error:
            found.append(str(error))
    halves = (path for path in killed.rglob(".*.part*") if ".broken-" not in str(path))
    found += [f"leftover {path.name}" for path in halves]
    shutil.rmtree(killed)
    return [f"{line} ({kind}, {'all' if group else 'one'})" for line in found]


def compare(folder: Path, study: Path) -> bool:
    """Run `scalewise compare` with forked runs; return whether it failed."""
    file = folder / "plan.yaml"
    if not file.is_file():
        varied = {"detector", "scheme", "seed", "out", "name"}
        options = {k: v for k, v in dataclasses.asdict(config(folder)).items() if k not in varied}
        grid = {"schemes": ["equal", "rlo"], "seeds": [0], "detectors": ["atss"]}
        file.write_text(yaml.safe_dump(grid | options | {"epochs": 2}))
    vars(local)["subprocess"] = Forking
    return bool(cli.main(["compare", "--config", str(file), "--out", str(study)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=30)
    parser.add_argument("--studies", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    draw, counts, wrong = random.Random(options.seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = dataclasses.replace(config(folder), name="whole")
        open_split(alone.data, "train")  # make the images before timing
        status, seconds = in_fork(lambda: train(alone))
        assert status == 0, "the undisturbed training failed"
        while counts["trainings killed"] < options.trainings:
            wrong += _told(kill_training(folder, folder / "whole", seconds, draw, counts))
        if options.studies:
            status, seconds = in_fork(lambda: compare(folder, folder / "study"))
            assert status == 0, LOG.read_text()
        while counts["studies killed"] < options.studies:
            wrong += _told(kill_study(folder, seconds, draw, counts))
    print("\n".join(f"{count:5} {what}" for what, count in counts.items()))
    print(f"{len(wrong)} differences from the undisturbed runs")
    return bool(wrong)


def _told(found: list[str]) -> list[str]:
    print("; ".join(found[:5]) or "alike", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
