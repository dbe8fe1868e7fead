"""`scalewise demo`: equal and balanced weights side by side on a made-up data set, in minutes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser

from scalewise.cli.options import build, parse
from scalewise.default import SCHEME
from scalewise.errors import UserError
from scalewise.training.config import TrainConfig

if TYPE_CHECKING:
    from scalewise.cli.demo_picture import ClassScore
    from scalewise.study.plan import Cell, Plan
    from scalewise.study.records import Record

DATA = "demo:skew=0,rarer=1"  # all sizes alike, each class half as frequent as the one before


@dataclass(kw_only=True)
class DemoOptions:
    """Demo.

    Args:
        out: Folder in which the demo's folder is made.
        scheme: Weighting scheme that is compared with equal weights.
        detector: Assignment and losses.
        epochs: Passes over the training split.
        seed: Seed of both runs.
    """

    out: str = "runs"
    scheme: str = SCHEME
    detector: Literal["atss", "fcos", "retinanet"] = "atss"
    epochs: int = 24
    seed: int = 0


def config(options: DemoOptions) -> TrainConfig:
    """A setting that a CPU core trains in a few minutes from random weights."""
    return TrainConfig(
        data=DATA,
        detector=options.detector,
        by="class",
        epochs=options.epochs,
        val_every=options.epochs,
        backbone="shufflenet_v2_x1_0",
        width=64,
        depth=1,
        size=128,
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
    parser = ArgumentParser(
        prog="scalewise demo",
        description="Train twice on a data set made on the spot, with equal and balanced weights.",
        exit_on_error=False,
    )
    parser.add_class_arguments(DemoOptions)
    options = build(DemoOptions, parse(parser, words, DemoOptions))
    from scalewise.cli.demo_picture import draw_classes
    from scalewise.study.plan import Cell, GridOptions, make_plan, save_plan
    from scalewise.training.runs import new_run_folder

    grid = GridOptions(schemes=["equal", options.scheme], seeds=[options.seed])
    plan = make_plan(grid, config(options))
    study = new_run_folder(Path(options.out), "demo")
    save_plan(study, plan)
    print(f"two trainings side by side in {study}: a few minutes on two cores", flush=True)
    cells = [Cell(options.detector, scheme, options.seed) for scheme in plan.schemes]
    _train(study, plan, cells)
    scores = _scores(study, cells)
    picture = study / "demo.png"
    draw_classes(picture, scores, options.scheme)
    _show(scores, options.scheme)
    print(f"picture: {picture}\nall of it on one page: scalewise report {study}")
    return 0


def _train(study: Path, plan: Plan, cells: list[Cell]) -> None:
    """Both runs at once, a core each, or one after the other where there is one core.

    Raises:
        UserError: when one of them failed.
    """
    from scalewise.study.local import run_local

    failed: list[str] = []

    def report(cell: Cell, event: Record | str | None) -> None:
        if event is None:
            print(f"training with {cell.scheme} weights ...", flush=True)
        elif isinstance(event, str):
            failed.append(f"{cell}: {event}")

    try:
        run_local(study, plan, cells, min(2, os.cpu_count() or 1), report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"scalewise compare --out {study}") from None
    if failed:
        raise UserError("; ".join(failed))


def _scores(study: Path, cells: list[Cell]) -> list[ClassScore]:
    """Each class's AP on the test split, with both runs."""
    from scalewise.cli.demo_picture import ClassScore
    from scalewise.data import open_split
    from scalewise.study.plan import cell_folder
    from scalewise.training.inference import evaluate, load_run, predict

    test, training = open_split(DATA, "test"), open_split(DATA, "train")
    found = []
    for cell in cells:
        run = load_run(cell_folder(study, cell), "last")
        found.append(evaluate(run, None, "test")[1])
        images = [record.path for record in test.records[:8]]
        predict(run, images, run.folder / "predictions", threshold=0.4)
    labels = [int(label) for record in training.records for label in record.labels]
    return [
        ClassScore(name, labels.count(label), found[0][f"AP/{name}"], found[1][f"AP/{name}"])
        for label, name in enumerate(test.classes)
    ]


def _show(scores: list[ClassScore], scheme: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="AP of each class on the test images")
    for title in ("class", "objects in training", "equal", scheme, "difference"):
        table.add_column(title, justify="left" if title == "class" else "right")
    rows = [(s.name, str(s.objects), 100 * s.equal, 100 * s.balanced) for s in scores]
    before = sum(row[2] for row in rows) / len(rows)
    after = sum(row[3] for row in rows) / len(rows)
    for name, objects, equal, balanced in [*rows, ("mean: AP", "", before, after)]:
        texts = (f"{equal:.1f}", f"{balanced:.1f}", f"{balanced - equal:+.1f}")
        table.add_row(name, objects, *texts)
    Console().print(table)
