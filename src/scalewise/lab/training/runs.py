"""Run folders: what a run leaves on disk, and how it is found again.

RUN/config.yaml         every option
RUN/environment.json    versions, git state, seed, command, classes, data counts
RUN/checkpoints/        best.ckpt, last.ckpt
RUN/trace.parquet       every step's losses of the groups, weights and action
RUN/gradients.parquet   inner products of the groups' gradients, where they were measured
RUN/metrics.json        status, AP of every epoch, times
RUN/detections.parquet  what the last validation pass found
RUN/matches.npz         its detections matched to objects, once a comparison has needed them
RUN/groups.png          the trace as a picture
RUN/logs/               TensorBoard and CSV logs, one sub-folder an attempt
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from scalewise.errors import UserError
from scalewise.files import WriteError, make_folder, write_text


class RunError(UserError):
    """A run folder that is missing, broken, or in the wrong state."""


def new_run_folder(out: Path, name: str) -> Path:
    """Make `out/name`, or `out/name-2`, ... if that exists: no run is overwritten.

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


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON in one piece; NaN becomes null, because JSON has no NaN."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_json(path: Path) -> Any:
    """Read one of a run's JSON files.

    Raises:
        RunError: when it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run did not get far enough, or was moved") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not valid JSON: {error}") from None


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
