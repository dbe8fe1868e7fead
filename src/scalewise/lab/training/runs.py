"""Run folders: what a run leaves on disk, and how it is found again.

RUN/config.yaml         every option
RUN/environment.json    versions, git state, seed, command, classes, data counts
RUN/checkpoints/        best.ckpt, last.ckpt
RUN/trace.parquet       every step's losses of the groups, weights and action
RUN/gradients.parquet   inner products of the groups' gradients, where they were measured
RUN/metrics.json        status, AP of every epoch, times
RUN/detections.parquet  what the last validation pass found
RUN/matches.npz         its detections matched to the objects, once a comparison asked for it
RUN/groups.png          the trace as a picture
RUN/logs/               TensorBoard and CSV logs, one sub-folder an attempt
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scalewise.errors import UserError
from scalewise.files import WriteError, make_folder
from scalewise.files import write_text as write_text
from scalewise.lab.training.config import TrainConfig

PACKAGES = ("scalewise", "torch", "torchvision", "lightning", "timm", "numpy", "hotcoco")


class RunError(UserError):
    """A run folder that is missing, broken, or in the wrong state."""


def new_run_folder(out: Path, name: str) -> Path:
    """Make `out/name`, or `out/name-2`, ... where that exists: no run is overwritten.

    Raises:
        WriteError: the system refused.
    """
    make_folder(out)
    number = 1
    while True:
        folder = out / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise WriteError(f"the folder {folder} could not be made: {error.strerror}") from error


def is_main_process() -> bool:
    """Whether this process writes; the others of a distributed run only compute.

    Known from the launcher's variables, since the run folder is made before ranks have met: those
    of torchrun and Lightning, and where neither has set its own, SLURM's of a task that srun has
    started, and LSF's. A SLURM job named "bash" or "interactive" is no distributed run to
    Lightning, and none here.
    """
    own = [name for name in ("RANK", "NODE_RANK", "LOCAL_RANK") if name in os.environ]
    if not own and "SLURM_NTASKS" in os.environ:
        interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
        own = [] if interactive else ["SLURM_PROCID"]
    elif not own:
        own = ["JSM_NAMESPACE_RANK"]
    return all(int(os.environ.get(name) or 0) == 0 for name in own)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; NaN, which JSON lacks, becomes null."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_config(run: Path, config: TrainConfig) -> None:
    """Write `config.yaml`, which `scalewise train --config` reads back."""
    write_options(run / "config.yaml", dataclasses.asdict(config))


def write_options(path: Path, values: dict[str, Any]) -> None:
    """Write options by name as YAML, and how many, so that a file cut short is known as such."""
    text = yaml.safe_dump(values, sort_keys=False)
    write_text(path, f"# {len(values)} options\n{text}")


def load_config(run: Path) -> TrainConfig:
    """Read the options of a run.

    A data set that was named relative to the folder in which the run was started is found from any
    folder.

    Raises:
        RunError: when `run` is no run folder, or its config does not fit this version.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(f"{run} is no run folder: it has no config.yaml")
    # whole levels are all there was before "by" was an option
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
    stated = re.match(r"# (\d+) options\n", text)  # absent in what others wrote
    if stated and (len(values) < int(stated[1]) or not text.endswith("\n")):
        raise RunError(
            f"{path} was cut short: of {stated[1]} options, {len(values)} are there; put it back"
        )
    return {str(name): value for name, value in values.items()}


def config_from(values: dict[str, Any], source: Path) -> TrainConfig:
    """Options from what a file holds.

    Args:
        values: By name.
        source: The file, for messages.

    Raises:
        RunError: a name or a value that no option takes.
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
    """What tells a run from the others of its study, as `metrics.json` holds it under "run"."""
    return {"detector": config.detector, "scheme": config.scheme, "seed": config.seed}


def found_again(data: str, run: Path) -> str:
    """A data set's name as it is found from the present folder.

    What the run was started with comes first: a data set of the same name here may be another.

    Args:
        data: As it was named.
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
    except (OSError, ValueError, TypeError, KeyError):  # who needs that file says what is wrong
        pass
    return data


def load_metrics(run: Path) -> dict[str, Any]:
    """Read a run's `metrics.json`, which holds at least its status and its history.

    Raises:
        RunError: when it is missing, broken, or holds something else.
    """
    path = run / "metrics.json"
    metrics = load_json(path)
    if not (
        isinstance(metrics, dict)
        and isinstance(metrics.get("status"), str)
        and isinstance(metrics.get("history", []), list)
        and all(map(_is_epoch, metrics.get("history", [])))
        and all(metrics.get(name) is None or _is_epoch(metrics[name]) for name in ("last", "best"))
        and _repeats(metrics)
        and _are_damaged_images(metrics.get("damaged", {}))
    ):
        raise RunError(f"{path} is damaged: it does not hold the figures of a run")
    found: dict[str, Any] = metrics
    return found


def _repeats(metrics: dict[str, Any]) -> bool:
    """Whether the last epoch's AP is the one in the history, where both are there."""
    last, history = metrics.get("last"), metrics.get("history")
    if not last or not history or "AP" not in last or "AP" not in history[-1]:
        return True
    return bool(last["AP"] == history[-1]["AP"])


def _is_epoch(value: Any) -> bool:
    return isinstance(value, dict) and all(
        figure is None or isinstance(figure, int | float) for figure in value.values()
    )


def _are_damaged_images(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(split, dict)
        and isinstance(split.get("count"), int)
        and isinstance(split.get("first"), list)
        and all(isinstance(name, str) for name in split["first"])
        for split in value.values()
    )


def load_json(path: Path) -> Any:
    """Read one of a run's JSON files.

    Raises:
        RunError: when it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: the run did not come far enough, or was moved"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is no valid JSON: {error}") from None


def checkpoint(run: Path, kind: str) -> Path:
    """Path of the run's "best" or "last" checkpoint.

    Raises:
        RunError: when there is none.
    """
    path = run / "checkpoints" / f"{kind}.ckpt"
    if not path.is_file():
        raise RunError(f"{run} has no {kind} checkpoint ({path} is missing)")
    return path


def run_classes(run: Path) -> list[str]:
    """Names of a run's classes, in the order of the labels.

    Raises:
        RunError: when `environment.json` does not hold them.
    """
    path = run / "environment.json"
    facts = load_json(path)
    classes = facts.get("classes") if isinstance(facts, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise RunError(f"{path} is damaged: it does not hold the names of the classes")
    return classes


def environment(command: str | None = None) -> dict[str, Any]:
    """What else decides a run's figures: versions, processor, git state, command.

    Args:
        command: That repeats the run; the words of this process when None.
    """
    import torch

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    cuda = torch.cuda.is_available()
    return {
        "command": command or " ".join(["scalewise", *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "versions": {package: version(package) for package in PACKAGES},
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the working folder and whether it has changes; None outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
