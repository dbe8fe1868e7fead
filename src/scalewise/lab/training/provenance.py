"""Records, when a run begins, what else than its options decides its figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from scalewise.lab.data.split import Split
from scalewise.lab.training.config import TrainConfig

PACKAGES = ("scalewise", "torch", "torchvision", "lightning", "timm", "numpy", "hotcoco")


def environment(
    config: TrainConfig, training: Split, validation: Split, loaded: str, command: str | None
) -> dict[str, Any]:
    """What `environment.json` holds.

    Args:
        config: All options.
        training: What is trained on.
        validation: What is validated on.
        loaded: Text on the weights that the backbone starts from.
        command: The command that repeats the run; None takes the command line of this process.
    """
    return {
        **_machine(command),
        "seed": config.seed,
        "classes": list(training.classes),
        "images": {split.name: len(split.records) for split in (training, validation)},
        "objects": {
            split.name: sum(len(r.labels) for r in split.records)
            for split in (training, validation)
        },
        "skipped": {split.name: split.skipped for split in (training, validation)},
        "skipped_counts": {split.name: split.skipped_counts for split in (training, validation)},
        "backbone": loaded,
    }


def _machine(command: str | None) -> dict[str, Any]:
    """Versions, processor, git state, command."""
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
