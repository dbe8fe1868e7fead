"""Run and study folders built by hand, without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scalewise.data import open_split
from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.evaluation.stored import write_detections
from scalewise.lab.study.plan import GridOptions, make_plan
from scalewise.lab.study.plan_file import save_plan
from scalewise.lab.study.planned_cells import cell_config, cell_folder
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.gradients import GradientLog
from scalewise.lab.training.run_options import save_config
from scalewise.lab.training.runs import write_json
from scalewise.lab.training.trace import Trace, TraceInterval

LEVELS = ("P3", "P4", "P5", "P6", "P7")
STEPS, INTERVAL = 60, 10
NASTY = "<img src=x onerror=alert(1)>&\"'"
ACTIONS = ("equal", "avw-decline")


def write_run(folder: Path, config: TrainConfig, ap: Sequence[float], extras: bool = True) -> None:
    """Write a finished run of `len(ap)` epochs; `extras` adds gradients."""
    folder.mkdir(parents=True)
    save_config(folder, config)
    classes = ["small", "medium", NASTY, *(f"class {i}" for i in range(3, 10))]
    write_json(
        folder / "environment.json",
        {
            "command": f"scalewise train --data {NASTY}",
            "python": "3.11",
            "versions": {"scalewise": "0.1.0", "torch": "2.9"},
            "git": {"commit": "abc", "changed": False},
            "classes": classes,
        },
    )
    history = [
        {
            "epoch": epoch + 1,
            "step": (epoch + 1) * STEPS // len(ap),
            "validation_seconds": 2.0,
            "step_seconds": 0.1 + 0.01 * epoch,
            "AP": value,
            "AP50": 2 * value,
            "AP75": value / 2,
            "AP_small": value / 4,
            "AP_medium": value,
            "AP_large": None,
            "AP/small": value,
            f"AP/{NASTY}": value / 3,
            "AP/medium": None,
        }
        for epoch, value in enumerate(ap)
    ]
    metrics = {"status": "finished", "split": "val", "last": history[-1], "history": history}
    write_json(folder / "metrics.json", metrics)
    _write_trace(folder, config.scheme.startswith("rlo"), config.seed)
    if extras:
        log = GradientLog(folder / "gradients.parquet", LEVELS)
        rows = torch.rand(5, 40, generator=torch.Generator().manual_seed(config.seed))
        log.add(0, rows @ rows.T)
        log.save()


def _write_trace(folder: Path, policy: bool, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    trace = Trace(folder / "trace.parquet", ("box",), LEVELS, ACTIONS if policy else ())
    for step in range(STEPS):
        number = step // INTERVAL
        if step % INTERVAL == 0:
            action = torch.tensor(-1 if number == 0 else number % 2) if policy else None
            chances = torch.tensor([0.4, 0.6]) if policy else None
            interval = TraceInterval(number, torch.rand(5, generator=draw) + 0.5, action, chances)
        losses = torch.rand(1, 5, generator=draw) / torch.tensor([1.0, 2.0, 4.0, 8.0, 1e5])
        positives = torch.tensor([30.0, 10.0, 2.0, 1.0, 0.0])
        trace.add(step, step // 30, 1e-3, losses, positives, interval)
    trace.save()


CLASSES = (
    "total", "sum", "background", "a/b", "box", "1", "<b>bold</b>", "_under $score",
    *(f"class {i}" for i in range(8, 80)),
)  # fmt: skip
SIX = ("equal", "share-0.25", "share", "share-1", "avw-lag", "loss")


def write_class_run(folder: Path, config: TrainConfig) -> None:
    """Write a finished run by class, with 80 classes (some with odd names) and six actions.

    Intervals grow from 5 to 20 steps; rare classes have positives in few steps.
    """
    write_run(folder, config, [0.1, 0.2], extras=False)
    (folder / "trace.parquet").unlink()
    draw = torch.Generator().manual_seed(1)
    trace = Trace(folder / "trace.parquet", ("class", "box"), CLASSES, SIX)
    rates = torch.logspace(1, -1.5, len(CLASSES))
    lengths = [5, 5, 5, 8, 12, 15, 20]
    for number in range(len(lengths)):
        weights = torch.exp(0.3 * torch.randn(len(CLASSES), generator=draw)) if number else None
        interval = TraceInterval(
            number,
            torch.ones(len(CLASSES)) if weights is None else weights,
            torch.tensor(number % 6 if number else -1),
            torch.softmax(torch.randn(6, generator=draw), 0),
        )
        for step in range(sum(lengths[:number]), sum(lengths[: number + 1])):
            positives = torch.poisson(rates, generator=draw)
            share = positives / positives.sum().clamp(min=1)
            groups = share * (1 + torch.rand(2, len(CLASSES), generator=draw))
            losses = torch.cat((groups, torch.rand(2, 1, generator=draw)), 1)
            trace.add(step, 0, 1e-3, losses, positives, interval)
    trace.save()
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["last"] |= {f"AP/{name}": i / 100 for i, name in enumerate(CLASSES)}
    path.write_text(json.dumps(metrics))


def write_found(folder: Path, config: TrainConfig) -> None:
    """Write detections equal to the annotated objects, with levels 0 to 4 in turn."""
    split = open_split(config.data, config.val_split)
    environment = json.loads((folder / "environment.json").read_text())
    write_json(folder / "environment.json", environment | {"classes": list(split.classes)})
    write_detections(
        folder / "detections.parquet",
        [
            ImageDetections(
                r.image_id,
                r.boxes,
                np.full(len(r.boxes), 0.75, np.float32),
                r.labels,
                np.arange(len(r.boxes)) % 5,
            )
            for r in split.records
        ],
    )


def write_study(
    folder: Path, config: TrainConfig, seeds: int = 4, extras: bool = True
) -> dict[tuple[str, int], float]:
    """Write a study of equal, avw and rlo without rlo's last seed; return the AP of its runs."""
    plan = make_plan(GridOptions(schemes="equal,avw,rlo", seeds=seeds), config)
    save_plan(folder, plan)
    found: dict[tuple[str, int], float] = {}
    draw = np.random.default_rng(0)
    for cell in plan.cells:
        value = 0.3 + 0.02 * cell.seed + (0.01 if cell.scheme == "avw" else 0.0)
        value += float(draw.normal(0, 0.002))
        if (cell.scheme, cell.seed) == ("rlo", seeds - 1):
            continue
        found[cell.scheme, cell.seed] = value
        run = cell_folder(folder, cell)
        write_run(run, cell_config(folder, plan, cell), [value / 2, value], extras)
        if extras and cell.seed == 0:
            write_found(run, cell_config(folder, plan, cell))
    return found
