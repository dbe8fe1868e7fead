"""`scalewise export`: a run's detector as an ONNX or torch.export file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalewise.cli.parsing import build, command_parser, parse
from scalewise.errors import UsageError


@dataclass(kw_only=True)
class ExportOptions:
    """Export.

    Args:
        format: "onnx", or "torch" for a file that torch.export.load reads.
        checkpoint: The checkpoint with the best AP in validation, or the last one.
        out: The file to write. Default: RUN/model.onnx or RUN/model.pt2. If it exists, "-2" is
            added to the name.
        nms: Put non-maximum suppression into the file, which then gives at most 100 detections an
            image and their number. Without it, the file gives all boxes and scores.
        size: Longer side of the images in pixels. Default: the run's.
    """

    format: Literal["onnx", "torch"] = "onnx"
    checkpoint: Literal["best", "last"] = "best"
    out: str | None = None
    nms: bool = False
    size: int | None = None


def main(words: list[str]) -> int:
    """Run the command."""
    parser = command_parser(
        "export",
        "Write a run's detector as an ONNX or torch.export file, and check it against the run.",
    )
    parser.add_argument("run", help="run folder")
    parser.add_class_arguments(ExportOptions)
    values = parse(parser, words, ExportOptions)
    options = build(ExportOptions, values)
    if options.size is not None and options.size < 1:
        raise UsageError(f"--size must be above 0, got {options.size}")
    from scalewise.lab.training.run_options import load_config
    from scalewise.lab.training.runs import checkpoint

    folder = Path(values.run)
    load_config(folder)
    checkpoint(folder, options.checkpoint)
    from scalewise.lab.export.write import export_run
    from scalewise.lab.inference.trained import load_run

    run = load_run(folder, options.checkpoint, "cpu")
    out = Path(options.out) if options.out else None
    path, said = export_run(run, options.format, out, options.nms, options.size, options.checkpoint)
    print(*said, f"written: {path}", sep="\n")
    return 0
