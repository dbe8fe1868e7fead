"""`scalewise train`: a new run, or an interrupted one continued."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from scalewise.cli.parsing import add_run_options, build, command_parser, parse
from scalewise.errors import UsageError
from scalewise.lab.training.config import GROUPS, TrainConfig
from scalewise.lab.training.option_check import check


def parser() -> ArgumentParser:
    """All options of a run, plus `--config` and `--resume`."""
    options = command_parser(
        "train",
        "Train a detector. The run folder gets its options, logs, checkpoints and a trace.",
        usage="scalewise train --data DATA [options], or --resume RUN",
    )
    options.add_argument("--config", action="config", help="YAML file with any of the options")
    options.add_argument(
        "--resume", metavar="RUN", help="continue this run folder, with its own options"
    )
    add_run_options(options)
    return options


def main(words: list[str]) -> int:
    """Run the command."""
    values = parse(parser(), words, *GROUPS)
    if values.resume:
        others = [w for w in words if w.startswith("--") and not w.startswith("--resume")]
        if others:
            raise UsageError(
                f"--resume continues a run with its own options, so {' '.join(others)} cannot be "
                f"changed: start a new run with --config {values.resume}/config.yaml instead"
            )
    run = _resume(Path(values.resume)) if values.resume else _train(build(TrainConfig, values))
    from scalewise.cli.display import show_run
    from scalewise.lab.training.ranks import is_main_process

    if is_main_process():
        show_run(run)
    return 0


def _train(config: TrainConfig) -> Path:
    """Look at options and data before anything slow is imported; then train."""
    from scalewise.lab.training.building import open_splits
    from scalewise.lab.training.light import defer_torchmetrics

    check(config)
    splits = open_splits(config)
    from scalewise.lab.training.scheme_options import parse_scheme

    parse_scheme(config.scheme)
    defer_torchmetrics()
    from scalewise.lab.training.fit import train

    return train(config, splits=splits)


def _resume(run: Path) -> Path:
    """Look at the run and its data before anything slow is imported; then go on."""
    from scalewise.lab.training.building import open_splits
    from scalewise.lab.training.light import defer_torchmetrics
    from scalewise.lab.training.resuming import check_unfinished
    from scalewise.lab.training.run_options import load_config
    from scalewise.lab.training.runs import checkpoint

    config = load_config(run)
    checkpoint(run, "last")
    check_unfinished(run)
    splits = open_splits(config)
    defer_torchmetrics()
    from scalewise.lab.training.fit import resume

    return resume(run, splits)
