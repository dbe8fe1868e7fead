"""Writes the options of a run to `config.yaml`, and reads them."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import yaml

from scalewise.files import write_text
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.runs import RunError


def save_config(run: Path, config: TrainConfig) -> None:
    """Write `config.yaml`, which `scalewise train --config` reads back."""
    write_options(run / "config.yaml", dataclasses.asdict(config))


def write_options(path: Path, values: dict[str, Any]) -> None:
    """Write options as YAML, with their number, so that a file that was cut short is noticed."""
    text = yaml.safe_dump(values, sort_keys=False)
    write_text(path, f"# {len(values)} options\n{text}")


def load_config(run: Path) -> TrainConfig:
    """Read the options of a run.

    The data set is found from any folder, also if its name was relative to the folder in which the
    run was started.

    Raises:
        RunError: when `run` is not a run folder, or its config does not fit this version.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(f"{run} is no run folder: it has no config.yaml")
    # before "by" was an option, only whole levels were weighed
    config = config_from({"by": "level"} | read_yaml(path), path)
    return dataclasses.replace(config, data=found_again(config.data, run))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of options by name.

    Raises:
        RunError: it is missing, broken, or holds fewer options than were written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} cannot be read: it holds no options")
    stated = re.match(r"# (\d+) options\n", text)  # missing in files that a user wrote
    if stated and (len(values) < int(stated[1]) or not text.endswith("\n")):
        raise RunError(
            f"{path} was cut short: it has {len(values)} of {stated[1]} options; put it back"
        )
    return {str(name): value for name, value in values.items()}


def config_from(values: dict[str, Any], source: Path) -> TrainConfig:
    """Make the options from the values of a file.

    Args:
        values: The values by name.
        source: The file, for messages.

    Raises:
        RunError: there is no such option, or it does not take the value.
    """
    from jsonargparse import ArgumentError

    try:
        values = dict(_option_parser().parse_object(values).items())
    except (ArgumentError, TypeError, ValueError) as error:
        raise RunError(f"{source} cannot be read: {' '.join(str(error).split())}") from None
    return TrainConfig(**values)


@functools.cache
def _option_parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    return parser


def identity(config: TrainConfig) -> dict[str, Any]:
    """The options that identify a run in its study; `metrics.json` has them under "run"."""
    return {"detector": config.detector, "scheme": config.scheme, "seed": config.seed}


def found_again(data: str, run: Path) -> str:
    """The name under which a data set is found from the present folder.

    The data set with which the run was started comes first: one of the same name in the present
    folder may be another.

    Args:
        data: The name as it was given.
        run: A run that was started with that name.
    """
    kind, colon, rest = (
        data.rpartition(":") if data.startswith(("voc:", "coco:", "yolo:")) else ("", "", data)
    )
    path = Path(rest).expanduser()
    if not rest or rest.partition(":")[0] == "demo" or path.is_absolute():
        return data
    try:
        start = json.loads((run / "environment.json").read_text(encoding="utf-8"))["folder"]
        there = Path(start) / path
        if there.exists() and not (path.exists() and path.samefile(there)):
            return f"{kind}{colon}{there}"
    except (OSError, ValueError, TypeError, KeyError):  # code that needs the file reports the fault
        pass
    return data
