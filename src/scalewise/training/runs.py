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
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scalewise.errors import UserError
from scalewise.training.config import TrainConfig

PACKAGES = ("scalewise", "torch", "torchvision", "lightning", "timm", "numpy", "faster-coco-eval")


class RunError(UserError):
    """A run folder that is missing, broken, or in the wrong state."""


def new_run_folder(out: Path, name: str) -> Path:
    """Make `out/name`, or `out/name-2`, ... where that exists: no run is overwritten."""
    out.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = out / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def is_main_process() -> bool:
    """Whether this process writes; the others of a distributed run only compute.

    Known from the launcher's variables, since the run folder is made before ranks have met.
    """
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "NODE_RANK", "LOCAL_RANK"))


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that a crash leaves the old one or the new one whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


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
    write_text(run / "config.yaml", yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))


def load_config(run: Path) -> TrainConfig:
    """Read the options of a run.

    Raises:
        RunError: when `run` is no run folder, or its config does not fit this version.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise RunError(f"{run} is no run folder: it has no config.yaml")
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TrainConfig(**{"by": "level"} | values)  # all there was before it was an option
    except (TypeError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


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
    except json.JSONDecodeError as error:
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


def environment() -> dict[str, Any]:
    """What else decides a run's figures: versions, processor, git state, command."""
    import torch

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    cuda = torch.cuda.is_available()
    return {
        "command": " ".join(["scalewise", *sys.argv[1:]]),
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
