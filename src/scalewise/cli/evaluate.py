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
        data: Data set; the run's own when left out.
        split: Name of the split; the run's validation split when left out.
        checkpoint: Which checkpoint.
        no_clip: Score against the COCO file as it stands, boxes over an image's edge uncut, as
            pycocotools does; else they are cut to the image, as in training.
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
        "Average precision of a run.",
    )
    parser.add_argument("run", help="run folder")
    parser.add_class_arguments(EvaluateOptions)
    values = parse(parser, words, EvaluateOptions)
    options = build(EvaluateOptions, values)
    from scalewise.lab.data.open import require_data
    from scalewise.lab.training.runs import checkpoint, load_config, load_json

    folder = Path(values.run)
    load_config(folder)
    checkpoint(folder, options.checkpoint)
    if options.data is not None:
        require_data(options.data)
    from scalewise.cli.display import show_metrics
    from scalewise.lab.inference.trained import evaluate, load_run

    run = load_run(folder, options.checkpoint, options.device)
    path, metrics = evaluate(run, options.data, options.split, clip=not options.no_clip)
    epoch = "" if run.epoch is None else f", {options.checkpoint} checkpoint of epoch {run.epoch}"
    show_metrics(metrics, f"{run.folder.name}, {path.stem}{epoch}")
    over = load_json(path)["boxes_over_the_edge"]
    if over:
        what = (
            "counted as the file has them"
            if options.no_clip
            else "cut to it; --no-clip scores against the COCO file as it stands, as pycocotools"
        )
        print(f"{over} boxes reach over their image's edge and were {what}")
    print(f"written: {path}")
    return 0
