"""`scalewise inspect`: a look at a data set before training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from scalewise.cli.parsing import build, command_parser, parse
from scalewise.errors import UsageError
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.option_check import check


@dataclass(kw_only=True)
class InspectOptions:
    """Inspection.

    Args:
        data: Data set, as for `scalewise train --data`. Required.
        split: Name of the split to look at.
        size: Longer side, in pixels, to which images would be resized.
        detector: Detector whose assigner counts the positives.
        anchor_scale: Factor on the object sizes that the levels are meant for.
        size_edges: Limits between small, medium and large objects, in pixels of the original image:
            "coco" (32,96), "thirds" of the objects, or numbers separated by commas.
        out: Folder for the picture and the page. If it exists, a number is added to the name.
            Default: inspection.
    """

    data: str = ""
    split: str = "train"
    size: int = 320
    detector: Literal["atss", "fcos", "retinanet"] = "atss"
    anchor_scale: float = 1.0
    size_edges: str = "coco"
    out: str | None = None


def parser() -> ArgumentParser:
    """All options of an inspection."""
    options = command_parser(
        "inspect",
        "Look at a data set before training: sizes, levels, classes, doubtful labels.",
        usage="scalewise inspect --data DATA [options]",
    )
    options.add_class_arguments(InspectOptions)
    return options


def main(words: list[str]) -> int:
    """Run the command."""
    options: InspectOptions = build(InspectOptions, parse(parser(), words, InspectOptions))
    config = as_config(options)
    out = Path(options.out or "inspection")
    from scalewise.lab.data.open import require_data

    require_data(options.data)
    from rich.console import Console

    from scalewise.lab.inspection.found_tables import show_inspection
    from scalewise.lab.inspection.run import check_out, inspect_data, write_inspection

    check_out(options.data, out)
    found, examples, unreadable = inspect_data(config, show=True)
    show_inspection(found, Console())
    for line in unreadable:
        print(f"could not be read and is not shown: {line}")
    picture, page = write_inspection(found, examples, unreadable, out)
    print(f"picture: {picture}\npage:    {page}")
    return 0


def as_config(options: InspectOptions) -> TrainConfig:
    """The same options as those of a run, checked.

    Raises:
        UsageError: naming the option, its value and what is allowed.
    """
    if not options.data:
        raise UsageError("--data is missing: name a VOC, COCO or YOLO folder, or 'demo'")
    config = TrainConfig(
        data=options.data,
        train_split=options.split,
        size=options.size,
        detector=options.detector,
        anchor_scale=options.anchor_scale,
        size_edges=options.size_edges,
    )
    check(config)
    return config
