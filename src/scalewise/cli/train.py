"""`scalewise train`: a new run, or an interrupted one continued."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from scalewise.cli.options import build, parse
from scalewise.errors import UsageError
from scalewise.training.config import GROUPS, TrainConfig


def parser() -> ArgumentParser:
    """All options of a run, plus `--config` and `--resume`."""
    options = ArgumentParser(
        prog="scalewise train",
        description="Train a detector; the run folder keeps config, logs, checkpoints and trace.",
        exit_on_error=False,
    )
    options.add_argument("--config", action="config", help="YAML file with any of the options")
    options.add_argument(
        "--resume", metavar="RUN", help="continue this run folder, with its own options"
    )
    for group in GROUPS:
        options.add_class_arguments(group)
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
    from scalewise.cli.display import show_run
    from scalewise.training.fit import resume, train
    from scalewise.training.runs import is_main_process

    run = resume(Path(values.resume)) if values.resume else train(build(TrainConfig, values))
    if is_main_process():
        show_run(run)
    return 0
