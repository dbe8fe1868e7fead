"""How long a study will take."""

from __future__ import annotations

import time
from pathlib import Path

from scalewise.lab.study.plan import Plan, cell_config, cell_folder
from scalewise.lab.study.records import read_metrics, run_seconds
from scalewise.lab.training.config import TrainConfig

WARM_STEPS, TIMED_STEPS = 2, 4


def seconds_per_run(study: Path, plan: Plan) -> dict[str, tuple[float, str]]:
    """Estimated seconds of one run of each detector, and what the estimate rests on.

    The mean of the detector's finished runs where there are any; else a few steps are timed, on the
    study's own data and this machine. Nothing is written.

    Raises:
        UserError: for data or weights that cannot work.
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
    """Seconds that a run of `config` will take, from timing a few of its batches."""
    import torch

    from scalewise.lab.data.dataset import DetectionDataset
    from scalewise.lab.data.loader import make_loader
    from scalewise.lab.training.building import build_detector, loader_workers, open_splits

    training, validation = open_splits(config)
    device = torch.device(
        "cuda" if torch.cuda.is_available() and config.accelerator != "cpu" else "cpu"
    )
    detector = build_detector(config, len(training.classes), config.weights_backbone).to(device)
    data = DetectionDataset(training, config.size, augment=True)
    batches = make_loader(data, config.batch_size, shuffle=True, seed=0, workers=0)
    load_each: list[float] = []
    train_each: list[float] = []
    detect_each: list[float] = []
    clock = time.perf_counter()
    for number, batch in enumerate(batches):
        loaded = time.perf_counter()
        batch = batch._replace(**{k: v.to(device) for k, v in batch._asdict().items()})
        detector.train()
        total = torch.stack([term.sum() for term in detector(batch).values()]).sum()
        torch.autograd.backward(total)
        total.detach().cpu()
        trained = time.perf_counter()
        detector.eval()
        found = detector(batch)
        found.scores.cpu()
        detected = time.perf_counter()
        if number >= WARM_STEPS or number + 1 == len(batches):
            load_each.append(loaded - clock)
            train_each.append(trained - loaded)
            detect_each.append(detected - trained)
        if number + 1 == WARM_STEPS + TIMED_STEPS:
            break
        clock = time.perf_counter()
    load, train, detect = (sum(t) / len(t) for t in (load_each, train_each, detect_each))
    load /= max(1, loader_workers(config))
    if loader_workers(config):  # loading runs beside the step
        step, check = max(load, train), max(load, detect)
    else:
        step, check = load + train, load + detect
    steps = len(batches)
    checks = -(-len(validation.records) // config.batch_size)
    return config.epochs * (steps * step + checks * check)
