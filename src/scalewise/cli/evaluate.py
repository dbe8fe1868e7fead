"""`scalewise evaluate`: average precision of a run on any split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from scalewise.cli.options import build, parse


@dataclass(kw_only=True)
class EvaluateOptions:
    """Evaluation.

    Args:
        data: Data set; the run's own when left out.
        split: Name of the split; the run's validation split when left out.
        checkpoint: Which checkpoint.
        device: "auto", "cpu", "cuda" or another torch device.
    """

    data: str | None = None
    split: str | None = None
    checkpoint: Literal["best", "last"] = "best"
    device: str = "auto"


def main(words: list[str]) -> int:
    """Run the command."""
    parser = ArgumentParser(
        prog="scalewise evaluate", description="Average precision of a run.", exit_on_error=False
    )
    parser.add_argument("run", help="run folder")
    parser.add_class_arguments(EvaluateOptions)
    values = parse(parser, words, EvaluateOptions)
    options = build(EvaluateOptions, values)
    from scalewise.cli.display import show_metrics
    from scalewise.training.inference import evaluate, load_run

    run = load_run(Path(values.run), options.checkpoint, options.device)
    path, metrics = evaluate(run, options.data, options.split)
    show_metrics(metrics, f"{run.folder.name}, {path.stem}")
    print(f"written: {path}")
    return 0
