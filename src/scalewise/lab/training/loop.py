"""The training loop of a run: its callbacks, how it begins and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from scalewise.errors import UserError
from scalewise.files import system_error
from scalewise.lab.data.sampler import EpochSampler
from scalewise.lab.data.split import Split
from scalewise.lab.training.arithmetic import MATMUL
from scalewise.lab.training.average import MovingAverage
from scalewise.lab.training.checkpoint_callbacks import checkpoint_callbacks
from scalewise.lab.training.checkpoints import RunFacts, WholeFiles
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.progress import Bar, progress_callback
from scalewise.lab.training.recorder import GroupRecorder
from scalewise.lab.training.resuming import clean, position
from scalewise.lab.training.run_loaders import run_loaders
from scalewise.lab.training.run_options import identity
from scalewise.lab.training.runs import RunError
from scalewise.lab.training.scoring import Scoring
from scalewise.lab.training.sound import Diverged, StopDiverged
from scalewise.lab.training.trainer import make_trainer


def run_loop(
    run: Path,
    config: TrainConfig,
    training: Split,
    validation: Split,
    module: DetectionModule,
    checkpoint: Path | None = None,
    start: dict[str, Any] | None = None,
) -> None:
    """Train, and write all files of the run folder, also if the training is stopped.

    Args:
        run: The run folder.
        config: All options.
        training: What is trained on.
        validation: What is validated on.
        module: The detector with its balancer.
        checkpoint: The checkpoint from which a run goes on; None starts anew.
        start: The entries "loops" and "run" of that checkpoint, with its position.

    Raises:
        RunError: the system refused something.
        KeyboardInterrupt: the user stopped it; the message has the command that goes on.
    """
    recorder = GroupRecorder(run, config.log_every)
    scoring = Scoring(validation, run, recorder, identity(config))
    torch.set_float32_matmul_precision(MATMUL)
    trainer = _trainer(run, config, training.classes, recorder, scoring)
    _prepare(module, config, trainer.strategy.root_device)
    loaders = run_loaders(config, training, validation, trainer)
    if checkpoint is not None and start is not None:
        _go_on(loaders[0], start, checkpoint, trainer.world_size)
    try:
        trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
    except BaseException as last:
        # if the device is lost, the end of the trainer raises errors of its own
        stop = last if isinstance(last, SystemExit) else recorder.stopped_by or last
        status = "diverged" if isinstance(stop, Diverged) else "interrupted"
        scoring.write_last(trainer, module, status)
        if isinstance(stop, SystemExit):  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt(f"scalewise train --resume {run}") from None
        if reason := _refusal(stop, run):
            raise RunError(reason) from stop
        raise stop from stop.__cause__
    if trainer.is_global_zero:
        from scalewise.lab.training.trace_picture import draw_groups

        draw_groups(run)
        clean(run)  # removes files of a process that was still ending when this one began
    scoring.write(trainer, module, "finished")  # comes last, because a finished run cannot resume


def _trainer(
    run: Path,
    config: TrainConfig,
    classes: Sequence[str],
    recorder: GroupRecorder,
    scoring: Scoring,
) -> L.Trainer:
    progress = progress_callback(config.progress, recorder, scoring)
    return make_trainer(
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
            RunFacts(config, classes),
            progress,
        ],
        plugins=[WholeFiles()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=isinstance(progress, Bar),
    )


def _prepare(module: DetectionModule, config: TrainConfig, device: torch.device) -> None:
    """Set the memory layout of the detector for the device, and compile it if that is asked for."""
    if device.type == "cuda":
        module.detector.to(memory_format=torch.channels_last)
    if config.compile == "graphs":
        module.graph_losses()
    elif config.compile:
        module.detector.compile()


def _go_on(batches: DataLoader[Any], start: dict[str, Any], checkpoint: Path, devices: int) -> None:
    """Set the sampler to the batch at which a checkpointed run goes on."""
    sampler = batches.batch_sampler
    assert isinstance(sampler, EpochSampler)
    sampler.epoch, sampler.start_batch = position(start, checkpoint, len(batches), devices)


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


def _refusal(stop: BaseException, run: Path) -> str:
    """One line on what the system refused; empty if the training ended for another reason."""
    error = system_error(stop)  # loggers and loader processes wrap it in other errors
    if isinstance(stop, UserError) or not isinstance(stop, OSError | ValueError) or error is None:
        return ""
    if not run.is_dir():
        return f"{run} is gone, so training was stopped"
    return (
        f"{run}: training was stopped by the system: {error}; what was saved is kept, to go on: "
        f"scalewise train --resume {run}"
    )
