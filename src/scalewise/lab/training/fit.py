"""From a config to a trained run on disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L

from scalewise.lab.data.split import Split
from scalewise.lab.training import runs
from scalewise.lab.training.building import build_detector, open_splits
from scalewise.lab.training.caching import check_room
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.grouping import count_objects, make_grouping
from scalewise.lab.training.loop import run_loop
from scalewise.lab.training.module import DetectionModule
from scalewise.lab.training.objective import check_objective
from scalewise.lab.training.option_check import check
from scalewise.lab.training.preflight import (
    check_batches,
    check_graphs,
    check_names,
    check_process,
)
from scalewise.lab.training.provenance import environment
from scalewise.lab.training.ranks import is_main_process
from scalewise.lab.training.reach import reach
from scalewise.lab.training.reading import check_origin, read_checkpoint
from scalewise.lab.training.resuming import (
    check_own_metrics,
    check_same_data,
    check_tables,
    check_unfinished,
    clean,
)
from scalewise.lab.training.run_options import load_config, save_config
from scalewise.lab.training.scheme_options import build_balancer
from scalewise.lab.training.trainer import make_trainer


def train(
    config: TrainConfig, command: str | None = None, splits: tuple[Split, Split] | None = None
) -> Path:
    """Start a new run.

    Args:
        config: All options.
        command: The command that repeats the run, for its records. None takes the command line of
            this process.
        splits: What `open_splits` returned for these options. None calls it.

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
    if is_main_process():  # the only one that writes to the folder
        run = runs.new_run_folder(Path(config.out), name)
        save_config(run, config)
        facts = environment(config, training, validation, str(detector.loaded), command)
        runs.write_json(run / "environment.json", facts)
        print(f"run folder: {run}\n{detector.loaded}")
        print(training.describe(), validation.describe(), sep="\n", flush=True)
        for split in (training, validation):
            small = reach(split, config.size, config.detector, config.anchor_scale)
            if said := small.warning(split.name):
                warnings.warn(said, stacklevel=2)
    run_loop(run, config, training, validation, module)
    return run


def resume(run: Path, splits: tuple[Split, Split] | None = None) -> Path:
    """Continue a run that was interrupted, from its last checkpoint and with its own config.

    Args:
        run: The run folder.
        splits: What `open_splits` returned for its options. None calls it.

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
    config = load_config(run)
    path = runs.checkpoint(run, "last")
    found = read_checkpoint(path)
    check_unfinished(run)
    check_origin(found, path, config, runs.run_classes(run), resuming=True)
    check_own_metrics(run, config)
    trainer = make_trainer(config, logger=False, enable_checkpointing=False)
    check_process(config, trainer)
    check_graphs(config, trainer)
    training, validation = splits or open_splits(config)
    check_same_data(run, config, training)
    check_room(config, training, validation, trainer)
    if is_main_process():
        clean(run)
    L.seed_everything(config.seed, verbose=False)
    module = build_module(config, training, None)
    check_tables(run, module.detector.group_names)
    if is_main_process():
        print(f"resuming {run} from {path}", flush=True)
    start: dict[str, Any] = {name: found[name] for name in ("loops", "run") if name in found}
    run_loop(run, config, training, validation, module, path, start)
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
