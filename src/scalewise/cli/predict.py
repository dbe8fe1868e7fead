"""`scalewise predict`: detections drawn on images, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from scalewise.cli.options import build, parse
from scalewise.errors import UsageError


@dataclass(kw_only=True)
class PredictOptions:
    """Prediction.

    Args:
        out: Folder for the pictures and predictions.json; default: RUN/predictions.
        threshold: Least score of a box that is shown.
        checkpoint: Which checkpoint.
        device: "auto", "cpu", "cuda" or another torch device.
    """

    out: str | None = None
    threshold: float = 0.3
    checkpoint: Literal["best", "last"] = "best"
    device: str = "auto"


def main(words: list[str]) -> int:
    """Run the command."""
    parser = ArgumentParser(
        prog="scalewise predict",
        description="Draw boxes, scores and the level that each box came from.",
        exit_on_error=False,
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument(
        "images", nargs="+", help="image files, or folders, with all image files in and below them"
    )
    parser.add_class_arguments(PredictOptions)
    values = parse(parser, words, PredictOptions)
    options = build(PredictOptions, values)
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold is a score, 0 to 1, got {options.threshold}")
    from scalewise.training.inference import load_run
    from scalewise.training.prediction import predict

    run = load_run(Path(values.run), options.checkpoint, options.device)
    out = Path(options.out) if options.out else run.folder / "predictions"
    folder, unreadable = predict(run, map(Path, values.images), out, options.threshold)
    for line in unreadable:
        print(f"not read: {line}")
    print(f"written: {folder} ({len(unreadable)} files could not be read)")
    return 1 if unreadable else 0
