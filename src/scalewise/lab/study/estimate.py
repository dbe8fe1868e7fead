"""Estimates how long a study will take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scalewise.lab.data.split import Split
from scalewise.lab.study.planned_cells import Plan, cell_config, cell_folder
from scalewise.lab.study.records import run_seconds
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_metrics import read_metrics

if TYPE_CHECKING:
    import torch

    from scalewise.lab.detectors.batch import Batch
    from scalewise.lab.detectors.detector import DenseDetector

WARM_STEPS, TIMED_STEPS = 2, 4


def seconds_per_run(study: Path, plan: Plan) -> dict[str, tuple[float, str]]:
    """Estimate the seconds of one run, for each detector, with the source of the estimate.

    The estimate is the mean over the detector's finished runs. If there are none, a few steps are
    timed on this machine with the data of the study. Nothing is written.

    Raises:
        UserError: for data or weights that cannot be used.
    """
    return {
        detector: _from_records(study, plan, detector) or _from_steps(study, plan, detector)
        for detector in plan.detectors
    }


def _from_records(study: Path, plan: Plan, detector: str) -> tuple[float, str] | None:
    times = []
    for cell in plan.cells:
        metrics = read_metrics(cell_folder(study, cell))
        if cell.detector == detector and metrics and metrics.get("status") == "finished":
            times.append(run_seconds(metrics, plan.options.accumulate))
    return (sum(times) / len(times), f"{len(times)} finished runs") if times else None


def _from_steps(study: Path, plan: Plan, detector: str) -> tuple[float, str]:
    cell = next(c for c in plan.cells if c.detector == detector)
    return time_steps(cell_config(study, plan, cell)), f"{TIMED_STEPS} steps timed here"


def time_steps(config: TrainConfig) -> float:
    """Estimate the seconds of a run with these options by timing a few of its batches.

    If the run keeps its images in memory (`cache`), so does this: they are decoded once, and
    augmented where they are kept.
    """
    import torch

    from scalewise.lab.data.device_cache import DeviceCache
    from scalewise.lab.data.loader import make_loader
    from scalewise.lab.training.building import (
        build_detector,
        loader_workers,
        open_splits,
        training_images,
    )

    training, validation = open_splits(config)
    device = torch.device(
        "cuda" if torch.cuda.is_available() and config.accelerator != "cpu" else "cpu"
    )
    detector = build_detector(config, len(training.classes), config.weights_backbone).to(device)
    images = training_images(config, sample(training, config.batch_size))
    on_device = config.cache == "device"
    own = DeviceCache(images, device) if on_device else images
    batches = make_loader(own, config.batch_size, shuffle=True, seed=0, workers=0)
    clock = time.perf_counter()
    if config.cache != "none":
        for _ in batches:
            pass
    decode = (time.perf_counter() - clock) / len(own)
    load, train, detect = _batch_seconds(detector, batches, device)
    workers = loader_workers(config)
    load_apart = load / max(1, workers)
    beside = workers and not on_device  # loading runs at the same time as the step
    step = max(load_apart, train) if beside else load + train
    check = max(load_apart, detect) if workers else load + detect
    decode /= 1 if on_device else max(1, workers)
    steps, checks = (-(-len(s.records) // config.batch_size) for s in (training, validation))
    validations = config.epochs // config.val_every
    kept = decode * (len(training.records) + len(validation.records))
    return kept + config.epochs * steps * step + validations * checks * check


def sample(split: Split, batch_size: int) -> Split:
    """A small split for timing: images from the whole split, of which any may be damaged."""
    count = (WARM_STEPS + TIMED_STEPS) * batch_size
    records = split.records[:: max(1, len(split.records) // count)][:count]
    return replace(split, records=records, tolerance=math.inf)


def _batch_seconds(
    detector: DenseDetector, batches: Iterable[Batch], device: torch.device
) -> tuple[float, float, float]:
    """Mean seconds to load a batch, to train on it, and to detect in it, after a warm-up."""
    import torch

    each: list[tuple[float, float, float]] = []
    clock = time.perf_counter()
    for batch in batches:
        loaded = time.perf_counter()
        batch = batch._replace(**{k: v.to(device) for k, v in batch._asdict().items()})
        detector.train()
        total = torch.stack([term.sum() for term in detector(batch).values()]).sum()
        torch.autograd.backward(total)
        total.detach().cpu()
        trained = time.perf_counter()
        detector.eval()
        detector(batch).scores.cpu()
        detected = time.perf_counter()
        each.append((loaded - clock, trained - loaded, detected - trained))
        clock = time.perf_counter()
    timed = each[WARM_STEPS:] or each[-1:]
    load, train, detect = (sum(part) / len(timed) for part in zip(*timed, strict=True))
    return load, train, detect
