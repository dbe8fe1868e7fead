"""`scalewise demo`: equal and balanced weights side by side on a made-up data set, in minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scalewise.cli.parsing import build, command_parser, parse
from scalewise.default import SCHEME
from scalewise.errors import UserError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.option_check import check
from scalewise.threads import usable_cores

if TYPE_CHECKING:
    from scalewise.lab.study.planned_cells import Cell, Plan
    from scalewise.lab.study.records import Record

DATA = "demo:kind=cells,images=600,size=128"


@dataclass(kw_only=True)
class DemoRun:
    """Demo.

    Args:
        out: Folder in which the demo's folder is made.
        scheme: Weighting scheme that is compared with equal weights.
        detector: Detector to train.
        epochs: Passes over the training split.
        seed: Seed of both runs.
    """

    out: str = "runs"
    scheme: str = SCHEME
    detector: Literal["atss", "fcos", "retinanet"] = "atss"
    epochs: int = 10
    seed: int = 0


def config(options: DemoRun) -> TrainConfig:
    """A setting that a CPU core trains in a few minutes from random weights."""
    return TrainConfig(
        data=DATA,
        detector=options.detector,
        by="class",
        epochs=options.epochs,
        backbone="shufflenet_v2_x1_0",
        width=64,
        depth=1,
        size=128,
        anchor_scale=0.2,
        batch_size=16,
        lr=2e-3,
        backbone_lr=1.0,
        warmup=30,
        cache="ram",
        workers=0,
        log_every=10,
        progress="plain",
    )


def main(words: list[str]) -> int:
    """Run the command."""
    parser = command_parser(
        "demo",
        "Train twice on drawn pictures, with equal and with balanced weights, and compare.",
    )
    parser.add_class_arguments(DemoRun)
    options = build(DemoRun, parse(parser, words, DemoRun))
    check(config(options))
    from scalewise.cli.demo_picture import BALANCED, EQUAL, draw_demo
    from scalewise.cli.demo_scores import ap_of_classes, found_row, introduce, show_scores
    from scalewise.lab.data.open import open_split
    from scalewise.lab.report.build import write_report
    from scalewise.lab.study.board import duration
    from scalewise.lab.study.plan import GridOptions, make_plan
    from scalewise.lab.study.plan_file import save_plan
    from scalewise.lab.study.planned_cells import Cell
    from scalewise.lab.training.runs import new_run_folder

    start = time.monotonic()
    grid = GridOptions(schemes=["equal", options.scheme], seeds=[options.seed])
    plan = make_plan(grid, config(options))
    training, held_out = open_split(DATA, "train"), open_split(DATA, "val")
    study = new_run_folder(Path(options.out), "demo")
    save_plan(study, plan)
    introduce(training, held_out, options.scheme)
    print(f"Results are written to {study}.", flush=True)
    cells = [Cell(options.detector, scheme, options.seed) for scheme in plan.schemes]
    records = _train(study, plan, cells)
    scores = ap_of_classes(training, *(record.metrics for record in records))
    show_scores(scores, options.scheme, len(held_out.records))
    picture = study / "demo.png"
    rare = scores[-1].name
    balanced = f"balanced ({options.scheme})"
    looks = (("equal weights", EQUAL), (balanced, BALANCED))
    rows = [
        found_row(held_out, record.folder, rare, *look)
        for record, look in zip(records, looks, strict=True)
    ]
    draw_demo(picture, scores, balanced, rows)
    report = write_report([study], study / "report.html")[0]
    print(f"all of it took {duration(time.monotonic() - start)}")
    print(f"picture: {picture}\nreport:  {report}")
    print("on your own pictures: scalewise train --data FOLDER")
    return 0


def _train(study: Path, plan: Plan, cells: list[Cell]) -> list[Record]:
    """Both runs at once, a core each, or one after the other where there is one core.

    Returns:
        Their records, in the order of `cells`.

    Raises:
        UserError: when one of them failed.
    """
    from scalewise.lab.study.board import Board, live_board
    from scalewise.lab.study.local import run_local

    jobs = min(2, usable_cores())
    board = Board(study, plan, jobs)
    with live_board(board, plain=False) as live:

        def report(cell: Cell, event: Record | str | None) -> None:
            board.update(cell, event)
            if live is None:
                print(board.line(cell, event), flush=True)

        try:
            run_local(study, plan, cells, jobs, report)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"scalewise compare --out {study}") from None
    if board.failed:
        raise UserError("; ".join(f"{cell}: {reason}" for cell, reason in board.failed.items()))
    return [board.finished[cell] for cell in cells]
