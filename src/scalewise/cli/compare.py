"""`scalewise compare`: the same training under several schemes and seeds."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from scalewise.cli.parsing import add_run_options, build, command_parser, parse
from scalewise.errors import UsageError, UserError
from scalewise.files import is_leftover
from scalewise.lab.study.plan import VARIED, GridOptions
from scalewise.lab.training.config import GROUPS, TrainConfig
from scalewise.lab.training.option_check import check

if TYPE_CHECKING:
    from scalewise.lab.study.planned_cells import Cell, Plan


@dataclass(kw_only=True)
class StudyOptions:
    """Study.

    Args:
        out: Study folder. If it exists, what is missing is run, and the grid may grow.
        jobs: Runs at a time on this machine, each with its share of the cores and GPUs; "auto" is
            one for each GPU, or without a GPU one for every four cores.
        dry_run: Print the grid and an estimate of the time, and run nothing.
    """

    out: str = "study"
    jobs: int | Literal["auto"] = 1
    dry_run: bool = False


def parser() -> ArgumentParser:
    """The grid, where it goes, and every option of a run that does not vary."""
    options = command_parser(
        "compare",
        "Train every detector with every scheme and every seed, and compare them.",
        usage="scalewise compare --data DATA [options], or --out STUDY",
    )
    options.add_argument("--config", action="config", help="YAML file with any of the options")
    options.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, or nothing to start one on this machine",
    )
    options.add_class_arguments(StudyOptions)
    options.add_class_arguments(GridOptions)
    add_run_options(options, skip={*VARIED} - {"detector"})
    return options


def main(words: list[str]) -> int:
    """Run the command; 1 when a run failed."""
    return run_study(_parse(words))


def run_study(values: Namespace) -> int:
    """Run what is missing of a study; 1 when a run failed.

    Args:
        values: The options that `parser` knows.
    """
    from scalewise.lab.data.open import require_data
    from scalewise.lab.study.plan import make_plan
    from scalewise.lab.study.plan_file import extend, load_plan, save_plan

    study = Path(values.out)
    if values.jobs != "auto" and values.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, or auto, got {values.jobs}")
    options = TrainConfig(
        **{
            f.name: values[f.name]
            for f in dataclasses.fields(TrainConfig)
            if f.name not in VARIED or f.name == "detector"
        }
    )
    check(options)
    if values.ray is None and not (study / "study.yaml").is_file():  # a cluster has data of its own
        require_data(options.data)
    plan = make_plan(build(GridOptions, values), options)
    if (study / "study.yaml").is_file():
        plan = extend(load_plan(study), plan)
    elif study.is_dir() and any(not is_leftover(path) for path in study.iterdir()):
        raise UserError(f"{study} is no study (it has no study.yaml); name another with --out")
    if values.jobs == "auto":
        from scalewise.lab.study.machine_share import jobs_that_fit

        values.jobs = jobs_that_fit(plan.options)
    if values.dry_run:
        _dry_run(study, plan, values.jobs)
        return 0
    save_plan(study, plan)
    return _run(study, plan, values)


def _parse(words: list[str]) -> Namespace:
    """Parse; an existing study's own plan gives the defaults, so that its name is enough."""
    out = parse(parser(), words, StudyOptions, GridOptions, *GROUPS).out
    known = Path(out) / "study.yaml"
    if known.is_file():
        from scalewise.lab.study.plan_file import load_plan

        load_plan(known.parent)  # which names the file where it is damaged
        words = ["--config", str(known), *words]
    return parse(parser(), words, StudyOptions, GridOptions, *GROUPS)


def _dry_run(study: Path, plan: Plan, jobs: int) -> None:
    from scalewise.lab.study.board import Board, duration
    from scalewise.lab.study.estimate import seconds_per_run

    board = Board(study, plan, jobs)
    for cell in plan.cells:
        print(f"{'done' if cell in board.finished else 'to run':8}{cell}")
    known = seconds_per_run(study, plan)
    for detector, (seconds, basis) in known.items():
        print(f"a run of {detector}: about {duration(seconds)} and its start-up (from {basis})")
    board.seconds = {detector: seconds for detector, (seconds, _basis) in known.items()}
    print(
        f"{len(board.waiting)} of {len(plan.cells)} runs to do, {jobs} at a time: about "
        f"{duration(board.seconds_left())}; nothing was run"
    )


def _run(study: Path, plan: Plan, values: Namespace) -> int:
    from filelock import FileLock, Timeout
    from rich.console import Console

    from scalewise.lab.study.board import Board, live_board
    from scalewise.lab.study.local import run_local
    from scalewise.lab.study.records import Record

    lock = FileLock(study / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is working on {study}; wait for it or stop it") from None
    with lock:
        board = Board(study, plan, values.jobs)
        cells = board.waiting
        todo = f"{len(cells)} to do, {values.jobs} at a time"
        print(f"study {study}: {len(plan.cells)} runs, {todo}", flush=True)
        with live_board(board, values.progress == "plain") as live:

            def report(cell: Cell, event: Record | str | None) -> None:
                board.update(cell, event)
                if live is None:
                    print(board.line(cell, event), flush=True)

            try:
                if values.ray is None:
                    run_local(study, plan, cells, values.jobs, report)
                else:
                    from scalewise.lab.study.cluster import run_on_ray

                    run_on_ray(study, plan, cells, values.ray, report)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"scalewise compare --out {study}") from None
        if live is None:
            Console().print(board.table())
    for cell, reason in board.failed.items():
        print(f"failed: {cell}: {reason}", file=sys.stderr)
    if board.failed:
        print(f"to try them again: scalewise compare --out {study}", file=sys.stderr)
    if board.finished:
        _say_differences(study)
        print(f"for the whole picture: scalewise report {study}")
    return 1 if board.failed else 0


def _say_differences(study: Path) -> None:
    from scalewise.lab.study.comparisons import study_tables
    from scalewise.lab.study.records import load_study
    from scalewise.lab.study.verdicts import advice, verdict

    pairs: set[int] = set()
    for table in study_tables(load_study(study), ["AP"]):
        for difference in table.differences:
            print(f"{table.detector}: {verdict(difference)}")
            pairs.add(len(difference.seeds))
    for count in sorted(pairs):
        print(advice(count))
