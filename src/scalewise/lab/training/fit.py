"""From a config to a trained run on disk."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from scalewise.lab.data.dataset import DetectionDataset
from scalewise.lab.data.device_cache import DeviceCache
from scalewise.lab.data.loader import EpochSampler, make_loader
from scalewise.lab.data.split import Split
from scalewise.lab.detectors import DenseDetector
from scalewise.lab.training import runs
from scalewise.lab.training.arithmetic import MATMUL
from scalewise.lab.training.average import MovingAverage
from scalewise.lab.training.building import (
    build_detector,
    loader_workers,
    open_splits,
    training_images,
)
from scalewise.lab.training.caching import check_room
from scalewise.lab.training.checkpoints import (
    RunFacts,
    WholeFiles,
    checkpoint_callbacks,
    position,
)
from scalewise.lab.training.config import TrainConfig, check
from scalewise.lab.training.grouping import count_objects, make_grouping
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.progress import Bar, progress_callback
from scalewise.lab.training.reach import reach
from scalewise.lab.training.reading import check_origin, read_checkpoint
from scalewise.lab.training.recorder import GroupRecorder
from scalewise.lab.training.resuming import check_same_data, check_tables, check_unfinished, clean
from scalewise.lab.training.runs import RunError
from scalewise.lab.training.scheme_options import build_balancer, check_objective
from scalewise.lab.training.scoring import Scoring
from scalewise.lab.training.sound import Diverged, StopDiverged
from scalewise.lab.training.trainer import (
    check_batches,
    check_graphs,
    check_names,
    check_process,
    make_trainer,
    refusal,
    shared_out,
)


def train(
    config: TrainConfig, command: str | None = None, splits: tuple[Split, Split] | None = None
) -> Path:
    """Start a new run.

    Args:
        config: All options.
        command: That repeats the run, for its records; the words of this process when None.
        splits: What `open_splits` gave for these options; it is called when None.

    Returns:
        The run folder.

    Raises:
        UserError: for options, data or weights that cannot work; nothing is written then.

    Examples:
        >>> from scalewise.lab.training.config import TrainConfig
        >>> from scalewise.lab.training.fit import train
        >>> config = TrainConfig(
        ...     data="demo:images=10,size=64",
        ...     backbone="mobilenet_v3_small",
        ...     width=16,
        ...     depth=1,
        ...     size=64,
        ...     epochs=1,
        ...     name="small",
        ... )
        >>> run = train(config)
        run folder: runs/small...
        >>> (run / "metrics.json").is_file()
        True
    """
    check(config)
    trainer = make_trainer(config, logger=False, enable_checkpointing=False)
    check_process(config, trainer)
    check_graphs(config, trainer)
    training, validation = splits or open_splits(config)
    check_names(training)
    check_batches(config, training, trainer.world_size)
    check_room(config, training, validation, trainer)
    L.seed_everything(config.seed, verbose=False)
    module = build_module(config, training, config.weights_backbone)
    detector = module.detector
    name = config.name or f"{config.detector}-{config.scheme.partition(':')[0]}"
    run = Path(config.out) / name
    if runs.is_main_process():  # the only one that writes to the folder
        run = runs.new_run_folder(Path(config.out), name)
        runs.save_config(run, config)
        facts = _environment(config, training, validation, detector, command)
        runs.write_json(run / "environment.json", facts)
        print(f"run folder: {run}\n{detector.loaded}")
        print(training.describe(), validation.describe(), sep="\n", flush=True)
        for split in (training, validation):
            small = reach(split, config.size, config.detector, config.anchor_scale)
            if said := small.warning(split.name):
                warnings.warn(said, stacklevel=2)
    _fit(run, config, training, validation, module)
    return run


def resume(run: Path, splits: tuple[Split, Split] | None = None) -> Path:
    """Continue a run that was interrupted, from its last checkpoint and with its own config.

    Args:
        run: The run folder.
        splits: What `open_splits` gave for its options; it is called when None.

    Returns:
        The run folder.

    Raises:
        UserError: when there is nothing to resume, or the data have changed.

    Examples:
        >>> from pathlib import Path
        >>> from scalewise.errors import UserError
        >>> from scalewise.lab.training.fit import resume
        >>> try:
        ...     resume(Path("runs/first"))
        ... except UserError as error:
        ...     print(error)
        runs/first is finished; start a new run to train longer
    """
    config = runs.load_config(run)
    path = runs.checkpoint(run, "last")
    found = read_checkpoint(path)
    check_unfinished(run)
    check_origin(found, path, config, runs.run_classes(run), resuming=True)
    trainer = make_trainer(config, logger=False, enable_checkpointing=False)
    check_process(config, trainer)
    check_graphs(config, trainer)
    training, validation = splits or open_splits(config)
    check_same_data(run, config, training)
    check_room(config, training, validation, trainer)
    if runs.is_main_process():
        clean(run)
    L.seed_everything(config.seed, verbose=False)
    module = build_module(config, training, None)
    check_tables(run, module.detector.group_names)
    if runs.is_main_process():
        print(f"resuming {run} from {path}", flush=True)
    start: dict[str, Any] = {name: found[name] for name in ("loops", "run") if name in found}
    _fit(run, config, training, validation, module, path, start)
    return run


def build_module(config: TrainConfig, training: Split, weights: str | None) -> DetectionModule:
    """The detector with its balancer.

    Raises:
        UserError: for options that cannot work.
    """
    grouping = make_grouping(config, training)
    detector = build_detector(config, len(training.classes), weights, grouping)
    objects = None if grouping is None else count_objects(grouping, training)
    balancer = build_balancer(detector.group_names, config, objects)
    check_objective(config, balancer, training.classes)
    return DetectionModule(detector, balancer, config)


def _environment(
    config: TrainConfig,
    training: Split,
    validation: Split,
    detector: DenseDetector,
    command: str | None,
) -> dict[str, Any]:
    return {
        **runs.environment(command),
        "seed": config.seed,
        "classes": list(training.classes),
        "images": {split.name: len(split.records) for split in (training, validation)},
        "objects": {
            split.name: sum(len(r.labels) for r in split.records)
            for split in (training, validation)
        },
        "skipped": {split.name: split.skipped for split in (training, validation)},
        "skipped_counts": {split.name: split.skipped_counts for split in (training, validation)},
        "backbone": str(detector.loaded),
    }


def _fit(
    run: Path,
    config: TrainConfig,
    training: Split,
    validation: Split,
    module: DetectionModule,
    checkpoint: Path | None = None,
    start: dict[str, Any] | None = None,
) -> None:
    recorder = GroupRecorder(run, config.log_every)
    scoring = Scoring(validation, run, recorder, runs.identity(config))
    progress = progress_callback(config.progress, recorder, scoring)
    torch.set_float32_matmul_precision(MATMUL)
    trainer = make_trainer(
        config,
        max_epochs=config.epochs,
        check_val_every_n_epoch=config.val_every,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm or None,
        deterministic=config.deterministic,
        logger=_loggers(run),
        log_every_n_steps=config.log_every,
        callbacks=[
            StopDiverged(run, config),
            recorder,
            scoring,
            *_optional_callbacks(config),
            *checkpoint_callbacks(run, config),
            RunFacts(config, training.classes),
            progress,
        ],
        plugins=[WholeFiles()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=isinstance(progress, Bar),
    )
    if trainer.strategy.root_device.type == "cuda":
        module.detector.to(memory_format=torch.channels_last)
    if config.compile == "graphs":
        module.graph_losses()
    elif config.compile:
        module.detector.compile()
    loaders = _loaders(config, training, shared_out(validation, trainer.world_size), trainer)
    if checkpoint is not None and start is not None:
        batches = loaders[0]
        sampler = batches.batch_sampler
        assert isinstance(sampler, EpochSampler)
        sampler.epoch, sampler.start_batch = position(
            start, checkpoint, len(batches), trainer.world_size
        )
    try:
        trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except BaseException as last:
        # tearing down a trainer whose device is lost raises errors of its own
        stop = last if isinstance(last, SystemExit) else recorder.stopped_by or last
        status = "diverged" if isinstance(stop, Diverged) else "interrupted"
        scoring.write_last(trainer, module, status)
        if isinstance(stop, SystemExit):  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt(f"scalewise train --resume {run}") from None
        if reason := refusal(stop, run):
            raise RunError(reason) from stop
        raise stop from stop.__cause__
    if trainer.is_global_zero:
        from scalewise.lab.training.trace_picture import draw_groups

        draw_groups(run)
        clean(run)  # of a process that was still ending when this one began
    scoring.write(trainer, module, "finished")  # at last: what is finished is not gone on with


def _loaders(
    config: TrainConfig,
    training: Split,
    validation: Split,
    trainer: L.Trainer,
) -> tuple[Any, Any]:
    load = partial(
        make_loader,
        batch_size=config.batch_size,
        workers=loader_workers(config),
        num_replicas=trainer.world_size,
        rank=trainer.global_rank,
        pin_memory=trainer.strategy.root_device.type == "cuda",
    )
    data = training_images(config, training)
    own = DeviceCache(data, trainer.strategy.root_device) if config.cache == "device" else data
    mosaic_epochs = config.epochs * 9 // 10 if config.mosaic else 0
    batches = load(own, shuffle=True, seed=config.seed, mosaic_epochs=mosaic_epochs)
    held_out = DetectionDataset(
        validation, config.size, augment=False, cache="none" if config.cache == "none" else "ram"
    )
    held_out.warn_with(data)
    return batches, load(held_out, shuffle=False)


def _loggers(run: Path) -> list[Logger]:
    attempt = f"attempt-{1 + len(list((run / 'logs').glob('attempt-*')))}"
    return [
        CSVLogger(run, name="logs", version=attempt),
        TensorBoardLogger(run, name="logs", version=attempt),
    ]


def _optional_callbacks(config: TrainConfig) -> list[L.Callback]:
    callbacks: list[L.Callback] = []
    if config.ema:
        callbacks.append(MovingAverage(config.ema))
    if config.patience:
        callbacks.append(EarlyStopping("AP", mode="max", patience=config.patience))
    return callbacks
