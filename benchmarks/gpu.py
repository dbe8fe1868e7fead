"""One visit to a GPU: tests, speed, a profile and a study, each bounded in time.

Only the packages that training needs must be installed; PYTHONPATH=src is enough for scalewise.

    python benchmarks/gpu.py --out visit --minutes 8
    python benchmarks/gpu.py --out visit --minutes 2 --device cpu   # a rehearsal of tiny size

Each part writes to the folder when it ends, so a visit that is cut short still gives results. If a
part fails, this is reported and the next part runs. The folder then has

    visit.md      the card, versions, and the outcome of each part
    tests.txt     the tests marked cuda
    speed.md      the balancer, a detector's step, the overhead of weights, evaluation, an epoch
    profile.txt   where a step's time goes
    study.tar.gz  records of the study's finished runs

Unpack the last one beside the study's plan (`tar -xzf study.tar.gz -C results/groups`) and call
`make results`: its rows join `runs.csv`, and the next visit runs what is missing there.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from kept import table_rows
from tiny_runs import TINY

from scalewise.errors import UserError
from scalewise.files import write_text
from scalewise.lab.study.local import run_local
from scalewise.lab.study.plan_file import load_plan, save_plan
from scalewise.lab.study.planned_cells import Cell, Plan, cell_folder
from scalewise.lab.study.records import Record

ROOT = Path(__file__).parents[1]
STUDY = "gpu-groups"
PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "hotcoco")
RECORD = ("config.yaml", "environment.json", "metrics.json", "trace.parquet")
TESTS, SPEED, PROFILE = 0.2, 0.5, 0.1  # limits as shares of the time; the rest is for the study
WAYS = ("cache device", "cache device, compile graphs")
TINY_EPOCH = ("--backbone", "mobilenet_v3_small", "--width", "16", "--depth", "1", "--epochs", "2")
MARGIN = 10.0  # seconds kept for writing at the end
CORES_PER_RUN = 4  # for the training loop, its loader and validation


class OutOfTime(Exception):
    """The visit's time is up."""


@dataclass
class Visit:
    """The results of a visit so far.

    Attributes:
        out: folder for the results.
        device: "cuda" or "cpu".
        end: time at which it must stop, on the clock of `time.monotonic`.
        rows: part, outcome and seconds of each finished part.
    """

    out: Path
    device: str
    end: float
    rows: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds left before results are written."""
        return self.end - time.monotonic() - MARGIN

    def note(self, part: str, outcome: str, seconds: float) -> None:
        """Add the outcome of a part, and write visit.md again."""
        self.rows.append((part, outcome, seconds))
        print(f"{part}: {outcome} ({seconds:.0f} s)", flush=True)
        table = ["| part | outcome | seconds |", "| --- | --- | ---: |"]
        table += [f"| {part} | {outcome} | {seconds:.0f} |" for part, outcome, seconds in self.rows]
        write_text(self.out / "visit.md", "\n".join([facts(self.device), *table, ""]))

    def run(self, part: str, words: Sequence[str], seconds: float, log: Path) -> None:
        """Run a Python script of this project for at most `seconds`, with its output in a log."""
        start = time.monotonic()
        outcome = bounded([sys.executable, *words], min(seconds, self.left), log)
        self.note(part, outcome, time.monotonic() - start)


def bounded(words: Sequence[str], seconds: float, log: Path) -> str:
    """Run a command in the source tree; return how it ended: "ok", "exit status 1", "cut off"."""
    if seconds < 1:
        return "no time left"
    with log.open("ab") as file:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},  # for deterministic kernels
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"cut off after {seconds:.0f} s"
    return f"exit status {status}" if status else "ok"


def facts(device: str) -> str:
    """The card and the versions."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    card = f"{os.cpu_count()} CPU cores"
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        card = (
            f"{found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, {card}"
        )
    return f"# {card}\n\nPython {platform.python_version()}, {', '.join(versions)}.\n"


def run_tests(visit: Visit, seconds: float) -> None:
    """Run the tests marked cuda."""
    words = ["-m", "pytest", "tests/cuda", "--device", visit.device, "-rA", "--tb=short"]
    if visit.device == "cuda":
        words += ["-n", "4", "-p", "no:cacheprovider"]
    else:  # a few of them, to try the script
        words += ["-k", "(never_wait or attached) and (atss or rlo or fcos-class)"]
    visit.run("tests", words, seconds, visit.out / "tests.txt")


def run_speed(visit: Visit, seconds: float, data: str, work: Path) -> None:
    """Run the benchmarks and write their tables into one file."""
    common = ["--device", visit.device, "--out", str(work)]
    if visit.device == "cuda":
        wide = ["--width", "256", "--depth", "4", "--bf16"]
        scripts = {
            "balancer": ["balancer.py", "--rounds", "10"],
            "detector_step 320": ["detector_step.py", "--size", "320", "--batch", "32", *wide],
            "detector_step 640": ["detector_step.py", "--size", "640", "--batch", "16", *wide],
            "overhead": [
                "overhead.py",
                "--size",
                "640",
                "--batch",
                "8",
                "--bf16",
                "--seconds",
                "6",
            ],
            "evaluation": ["evaluation.py", "--batch", "32", "--batches", "20", "--bf16"],
            "epoch": ["epoch.py", "--data", data, "--precision", "bf16-mixed", "--ways", *WAYS],
        }
    else:
        tiny, once = ["--size", "64", "--batch", "2"], ["--rounds", "1"]
        scripts = {
            "balancer": ["balancer.py", "--rounds", "2", "--steps", "100"],
            "detector_step": ["detector_step.py", *tiny, "--width", "32", "--rounds", "2"],
            "overhead": ["overhead.py", *tiny, "--seconds", "0.1", "--only", "scalewise ATSS"],
            "evaluation": ["evaluation.py", *tiny, "--batches", "1", "--images", "20", *once],
            "epoch": ["epoch.py", *tiny, *TINY_EPOCH, "--data", data, "--ways", WAYS[0]],
        }
    end = time.monotonic() + seconds
    for name, (script, *words) in scripts.items():
        log = work / f"{name}.log"
        before = set(work.glob("*.md"))
        for old in before:
            old.unlink()
        visit.run(name, [f"benchmarks/{script}", *words, *common], end - time.monotonic(), log)
        made = sorted(work.glob("*.md"))
        text = "\n".join(path.read_text() for path in made) or f"# {name}\n\n{tail(log)}\n"
        with (visit.out / "speed.md").open("a") as file:
            file.write(text.replace(f" --out {work}", "").replace(str(work.parent), "") + "\n")


def tail(log: Path) -> str:
    """The end of a log, as a code block of Markdown."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    return "\n".join(["    " + line for line in lines[-15:]])


def run_profile(visit: Visit, seconds: float) -> None:
    """Profile one step: kernels, launches, idle share and host waits."""
    words = ["--size", "320", "--batch", "32", "--width", "256", "--depth", "4", "--bf16"]
    if visit.device == "cpu":
        words = ["--size", "64", "--batch", "2", "--width", "16", "--steps", "2"]
    script = ["benchmarks/profile_step.py", "--device", visit.device, *words]
    visit.run("profile", script, seconds, visit.out / "profile.txt")


def find_study(name: str) -> Path:
    """The study's folder in `results/`.

    Raises:
        UserError: if there is no study of that name, or more than one.
    """
    found = [plan.parent for plan in ROOT.glob(f"results/**/{name}/study.yaml")]
    if len(found) != 1:
        raise UserError(f"--study {name}: {len(found)} studies of that name in results/")
    return found[0]


def tiny_plan(plan: Plan) -> Plan:
    """Two cells of the plan, so small that a CPU trains them in seconds."""
    options = dataclasses.replace(
        plan.options,
        **TINY,
        data="demo:images=8,size=64",
        cache="none",
        weights_backbone=None,
        epochs=1,
        val_every=1,
        warmup=1,
        precision="32-true",
    )
    return Plan(plan.detectors[:1], plan.schemes[:2], (0,), plan.baseline, options)


def run_study(visit: Visit, name: str, jobs: int, work: Path) -> None:
    """Run the study's missing cells, several at a time, until they are done or time is up."""
    kept = find_study(name)
    plan = load_plan(kept)
    done = set(table_rows(kept))
    if visit.device == "cpu":
        plan, done = tiny_plan(plan), set()
        plan.options.data += f",folder={work / 'demo'}"
    cells = [cell for cell in plan.cells if cell not in done]
    study = work / name
    save_plan(study, plan)
    start = time.monotonic()
    finished: list[Cell] = []
    failed: list[str] = []

    def report(cell: Cell, event: Record | str | None) -> None:
        seconds = time.monotonic() - start
        if isinstance(event, Record):
            finished.append(cell)
            print(f"  {cell}: AP {100 * event.metrics['AP']:.1f} at {seconds:.0f} s", flush=True)
            pack(study, finished, visit.out / "study.tar.gz")
        elif event is not None:
            failed.append(f"{cell}: {event}")
            print(f"  {cell}: {event}", flush=True)

    def tick() -> None:
        if visit.left < 0:
            raise OutOfTime

    outcome = "ok"
    try:
        run_local(study, plan, cells, jobs, report, tick)
    except OutOfTime:
        outcome = "time is up"
    counts = f"{len(finished)} of {len(cells)} missing runs of {len(plan.cells)}, {jobs} at a time"
    visit.note(
        f"study {name}",
        "; ".join([f"{outcome}: {counts}", *failed[:3]]),
        time.monotonic() - start,
    )


def pack(study: Path, cells: Sequence[Cell], archive: Path) -> None:
    """Write an archive with the records of finished runs; it appears only when it is complete."""
    aside = archive.with_name(f".{archive.name}")
    with tarfile.open(aside, "w:gz") as file:
        for cell in cells:
            for name in RECORD:
                path = cell_folder(study, cell) / name
                if path.is_file():
                    file.add(path, path.relative_to(study.parent))
    os.replace(aside, archive)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, required=True, help="time for the whole visit")
    parser.add_argument("--study", default=STUDY, help="name of a study in results/")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--jobs", type=int, help="runs of the study at a time")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu rehearses the visit")
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    os.chdir(ROOT)  # data paths in a study are relative to it
    total = 60 * args.minutes
    visit = Visit(args.out, args.device, time.monotonic() + total)
    visit.note("card", "ok", 0)
    jobs = args.jobs or max(1, (os.cpu_count() or 1) // CORES_PER_RUN)
    plan = load_plan(find_study(args.study))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run_tests(visit, TESTS * total)
        (work / "speed").mkdir()
        data = f"demo:images=20,size=64,folder={work / 'epoch'}"
        if args.device == "cuda":
            data = plan.options.data
        run_speed(visit, SPEED * total, data, work / "speed")
        run_profile(visit, PROFILE * total)
        run_study(visit, args.study, jobs, work)


if __name__ == "__main__":
    main()
