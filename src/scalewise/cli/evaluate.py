"""`scalewise evaluate`: average precision of a run on any split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalewise.cli.parsing import build, command_parser, parse


@dataclass(kw_only=True)
class EvaluateOptions:
    """Evaluation.

    Args:
        data: Data set. Default: the run's own.
        split: Name of the split. Default: the run's validation split.
        checkpoint: The checkpoint with the best AP in validation, or the last one.
        no_clip: Use the boxes of the COCO file as they are, as pycocotools does. Without it, boxes
            that reach beyond the image are cut to it, as in training.
        device: "auto", "cpu", "cuda" or another torch device.
    """

    data: str | None = None
    split: str | None = None
    checkpoint: Literal["best", "last"] = "best"
    no_clip: bool = False
    device: str = "auto"


def main(words: list[str]) -> int:
    """Run the command."""
    parser = command_parser(
        "evaluate",
        "Measure the average precision (AP) of a run on a split.",
    )
    parser.add_argument("run", help="run folder")
    parser.add_class_arguments(EvaluateOptions)
    values = parse(parser, words, EvaluateOptions)
    options = build(EvaluateOptions, values)
    from scalewise.lab.data.open import require_data
    from scalewise.lab.training.run_options import load_config
    from scalewise.lab.training.runs import checkpoint, load_json

    folder = Path(values.run)
    load_config(folder)
    checkpoint(folder, options.checkpoint)
    if options.data is not None:
        require_data(options.data)
    from scalewise.cli.display import show_metrics
    from scalewise.lab.inference.scored import evaluate
    from scalewise.lab.inference.trained import load_run

    run = load_run(folder, options.checkpoint, options.device)
    path, metrics = evaluate(run, options.data, options.split, clip=not options.no_clip)
    epoch = "" if run.epoch is None else f", {options.checkpoint} checkpoint of epoch {run.epoch}"
    show_metrics(metrics, f"{run.folder.name}, {path.stem}{epoch}")
    over = load_json(path)["boxes_over_the_edge"]
    if over:
        what = (
            "used as they are"
            if options.no_clip
            else "cut to it; --no-clip uses the boxes of the COCO file as they are, as pycocotools"
        )
        print(f"{over} boxes reach beyond their image and were {what}")
    print(f"written: {path}")
    return 0
