"""From a config to a trained run on disk."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from scalewise import detectors
from scalewise.data import DetectionDataset, EpochSampler, Split, make_loader, open_split
from scalewise.data.split import hold_out
from scalewise.detectors import DenseDetector
from scalewise.errors import UserError
from scalewise.training import runs
from scalewise.training.average import MovingAverage
from scalewise.training.config import TrainConfig, check
from scalewise.training.grouping import count_objects, make_grouping
from scalewise.training.module import DetectionModule
from scalewise.training.picture import draw_groups
from scalewise.training.progress import Bar, progress_callback
from scalewise.training.recorder import GroupRecorder
from scalewise.training.runs import RunError
from scalewise.training.schemes import build_balancer, check_objective
from scalewise.training.scoring import Scoring
from scalewise.weighting import Grouping


def train(config: TrainConfig) -> Path:
    """Start a new run.

    Args:
        config: All options.

    Returns:
        The run folder.

    Raises:
        UserError: for options, data or weights that cannot work; nothing is written then.
    """
    check(config)
    training, validation = open_splits(config)
    L.seed_everything(config.seed, verbose=False)
    module = build_module(config, training, config.weights_backbone)
    detector = module.detector
    name = config.name or f"{config.detector}-{config.scheme.partition(':')[0]}"
    run = Path(config.out) / name
    if runs.is_main_process():  # the only one that writes to the folder
        run = runs.new_run_folder(Path(config.out), name)
        runs.save_config(run, config)
        facts = _environment(config, training, validation, detector)
        runs.write_json(run / "environment.json", facts)
        print(f"run folder: {run}\n{detector.loaded}")
        print(training.describe(), validation.describe(), sep="\n", flush=True)
    _fit(run, config, training, validation, module, None)
    return run


def resume(run: Path) -> Path:
    """Continue a run that was interrupted, from its last checkpoint and with its own config.

    Args:
        run: The run folder.

    Returns:
        The run folder.

    Raises:
        UserError: when there is nothing to resume, or the data have changed.
    """
    config = runs.load_config(run)
    if (run / "metrics.json").is_file() and runs.load_json(run / "metrics.json")[
        "status"
    ] == "finished":
        raise RunError(f"{run} is finished; start a new run to train longer")
    path = runs.checkpoint(run, "last")
    training, validation = open_splits(config)
    known = runs.load_json(run / "environment.json")
    before = (known["classes"], known["images"][training.name])
    if before != (list(training.classes), len(training.records)):
        raise RunError(
            f"{config.data} has changed since {run} began: it had {before[1]} training images of "
            f"{len(before[0])} classes, and has {len(training.records)} of "
            f"{len(training.classes)}; restore it, or start a new run"
        )
    L.seed_everything(config.seed, verbose=False)
    module = build_module(config, training, None)
    if runs.is_main_process():
        print(f"resuming {run} from {path}", flush=True)
    _fit(run, config, training, validation, module, path)
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


def build_detector(
    config: TrainConfig, classes: int, weights: str | None, grouping: Grouping | None = None
) -> DenseDetector:
    """The detector that the options describe.

    Raises:
        UserError: for a backbone or weights that cannot be had.
    """
    make = getattr(detectors, config.detector)
    pretrained = config.weights_backbone is not None  # also when a checkpoint will replace them
    try:
        detector: DenseDetector = make(
            backbone=config.backbone,
            num_classes=classes,
            weights=weights,
            freeze_bn=pretrained,
            freeze_stem=pretrained,
            width=config.width,
            depth=config.depth,
            anchor_scale=config.anchor_scale,
            grouping=grouping,
            object_power=config.object_power,
        )
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"detector {config.detector} on {config.backbone}: {error}") from None
    return detector


def loader_workers(config: TrainConfig) -> int:
    """Loader processes: as asked, or half the cores."""
    if config.workers == "auto":
        return max(1, min(8, (os.cpu_count() or 1) // 2))
    return config.workers


def open_splits(config: TrainConfig) -> tuple[Split, Split]:
    """What a run trains on and what it is validated on.

    Raises:
        UserError: for data that cannot be read, or splits of different classes.
    """
    training = open_split(config.data, config.train_split, skip_bad=config.skip_bad)
    if config.holdout:
        return hold_out(training, config.holdout)
    validation = open_split(config.data, config.val_split, skip_bad=config.skip_bad)
    if training.classes != validation.classes:
        raise UserError(
            f"{config.data}: {training.name} and {validation.name} name different classes: "
            f"{sorted(set(training.classes) ^ set(validation.classes))} stand in one only"
        )
    return training, validation


def _environment(
    config: TrainConfig, training: Split, validation: Split, detector: DenseDetector
) -> dict[str, Any]:
    return {
        **runs.environment(),
        "seed": config.seed,
        "classes": list(training.classes),
        "images": {split.name: len(split.records) for split in (training, validation)},
        "objects": {
            split.name: sum(len(r.labels) for r in split.records)
            for split in (training, validation)
        },
        "skipped": {split.name: split.skipped for split in (training, validation)},
        "backbone": str(detector.loaded),
    }


def _fit(
    run: Path,
    config: TrainConfig,
    training: Split,
    validation: Split,
    module: DetectionModule,
    checkpoint: Path | None,
) -> None:
    _quieten()
    recorder = GroupRecorder(run, config.log_every)
    scoring = Scoring(validation, run, recorder)
    progress = progress_callback(config.progress, recorder, scoring)
    torch.set_float32_matmul_precision("high")
    trainer = L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision=config.precision,
        max_epochs=config.epochs,
        check_val_every_n_epoch=config.val_every,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm or None,
        deterministic=config.deterministic,
        logger=_loggers(run),
        log_every_n_steps=config.log_every,
        callbacks=[
            recorder,
            scoring,
            *_optional_callbacks(config),
            *_checkpoints(run, config),
            progress,
        ],
        plugins=[WholeFiles()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=isinstance(progress, Bar),
    )
    if trainer.strategy.root_device.type == "cuda":
        module.detector.to(memory_format=torch.channels_last)
    if config.compile:
        module.detector.compile()
    loaders = _loaders(config, training, validation, trainer, checkpoint)
    try:
        trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except BaseException as stop:
        scoring.write(trainer, module, "interrupted")
        if isinstance(stop, SystemExit):  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt(f"scalewise train --resume {run}") from None
        raise
    scoring.write(trainer, module, "finished")
    if trainer.is_global_zero:
        draw_groups(run)


def _loaders(
    config: TrainConfig,
    training: Split,
    validation: Split,
    trainer: L.Trainer,
    checkpoint: Path | None,
) -> tuple[Any, Any]:
    load = partial(
        make_loader,
        batch_size=config.batch_size,
        workers=loader_workers(config),
        num_replicas=trainer.world_size,
        rank=trainer.global_rank,
        pin_memory=trainer.strategy.root_device.type == "cuda",
    )
    data = DetectionDataset(
        training,
        config.size,
        augment=True,
        cache=config.cache,
        flip=config.flip,
        color_jitter=config.color_jitter,
        scale_jitter=(1 - config.scale_jitter, 1 + config.scale_jitter),
    )
    mosaic_epochs = config.epochs * 9 // 10 if config.mosaic else 0
    batches = load(data, shuffle=True, seed=config.seed, mosaic_epochs=mosaic_epochs)
    if checkpoint is not None:
        sampler = batches.batch_sampler
        assert isinstance(sampler, EpochSampler)
        sampler.epoch, sampler.start_batch = _position(checkpoint, len(batches))
    held_out = DetectionDataset(validation, config.size, augment=False, cache=config.cache)
    return batches, load(held_out, shuffle=False)


def _position(checkpoint: Path, batches: int) -> tuple[int, int]:
    """Epoch and batch at which the checkpointed run goes on."""
    loops = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["loops"][
        "fit_loop"
    ]
    done = loops["epoch_loop.batch_progress"]["current"]["ready"]
    epoch = loops["epoch_progress"]["current"]["processed"]
    return (
        (epoch + 1, 0)
        if done >= batches and epoch < loops["epoch_progress"]["current"]["ready"]
        else (epoch, done % batches)
    )


def _quieten() -> None:
    """Keep Lightning's advertisements and its notes on settings chosen here off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for note in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*log_every_n_steps.*",
        ".*exists and is not empty.*",  # a resumed run writes to its own folder
        ".*in eval mode at the start of training.*",  # frozen BatchNorm
        ".*dataloader is not resumable.*",  # its sampler is set to the right batch before
    ):
        warnings.filterwarnings("ignore", note)


def _loggers(run: Path) -> list[Logger]:
    attempt = f"attempt-{1 + len(list((run / 'logs').glob('attempt-*')))}"
    return [
        CSVLogger(run, name="logs", version=attempt),
        TensorBoardLogger(run, name="logs", version=attempt),
    ]


def _checkpoints(run: Path, config: TrainConfig) -> list[ModelCheckpoint]:
    folder = run / "checkpoints"
    fixed: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks = [
        ModelCheckpoint(**fixed, filename="best", monitor="AP", mode="max"),
        ModelCheckpoint(**fixed, filename="last", every_n_epochs=1, save_on_train_epoch_end=True),
    ]
    if config.checkpoint_every:
        callbacks.append(
            MidEpoch(**fixed, filename="last", every_n_train_steps=config.checkpoint_every)
        )
    return callbacks


def _optional_callbacks(config: TrainConfig) -> list[L.Callback]:
    callbacks: list[L.Callback] = []
    if config.ema:
        callbacks.append(MovingAverage(config.ema))
    if config.patience:
        callbacks.append(EarlyStopping("AP", mode="max", patience=config.patience))
    return callbacks


class MidEpoch(ModelCheckpoint):
    """Checkpoints between steps, but none after an epoch's last one.

    A run that goes on from there would leave out the epoch's validation. The checkpoint of the
    epoch follows right after that.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save when it is due."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are either the old one or the new one, never a part."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write aside, then rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        torch.save(checkpoint, aside)
        os.replace(aside, path)
