"""Reads or makes the matches of a run's stored detections, and checks them by its AP."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from scalewise.errors import UserError
from scalewise.lab.data.split import Split
from scalewise.lab.evaluation.match_curves import average_precision
from scalewise.lab.evaluation.match_files import load_matches, save_matches
from scalewise.lab.evaluation.matching import Matches, matched
from scalewise.lab.evaluation.stored import read_detections
from scalewise.lab.study.records import Record
from scalewise.lab.training.config import TrainConfig
from scalewise.lab.training.run_options import load_config

_SAME_AP = 1e-6


def run_matches(record: Record, splits: dict[tuple[object, ...], Split]) -> Matches:
    """Read a run's matches, or make them from its detections and write them.

    Args:
        record: record of the run.
        splits: splits that are already open, by their options; a newly opened split is added.

    Raises:
        UserError: there are neither matches nor detections with their data, or they do not give the
            AP that the run recorded.
    """
    path, detections = record.folder / "matches.npz", record.folder / "detections.parquet"
    if path.is_file():
        try:
            matches = load_matches(path)
        except UserError as error:
            if not detections.is_file():
                raise
            print(f"{error}; it is made again from {detections.name}", file=sys.stderr)
        else:
            if not detections.is_file() or _gives(matches, record):
                return _checked(matches, record, path)
    if not detections.is_file():
        raise UserError(f"neither matches.npz nor detections.parquet in {record.folder}")
    split = _validation_split(load_config(record.folder), splits)
    try:
        matches = matched(split, read_detections(detections))
    except (ValueError, OSError, IndexError) as error:
        raise UserError(f"{detections} does not fit the data: {error}") from None
    save_matches(path, _checked(matches, record, detections))
    return matches


def _validation_split(config: TrainConfig, splits: dict[tuple[object, ...], Split]) -> Split:
    from scalewise.lab.training.building import open_splits

    key = (
        config.data,
        config.train_split,
        config.val_split,
        config.holdout,
        config.skip_bad,
        config.strict,
    )
    if key not in splits:
        splits[key] = open_splits(config)[1]
    return splits[key]


def _gives(matches: Matches, record: Record) -> bool:
    value = average_precision(matches, np.ones(len(matches.image_ids), dtype=np.int64))[0]
    recorded = record.metrics.get("AP", float("nan"))
    return bool(np.isclose(value, recorded, rtol=0, atol=_SAME_AP, equal_nan=True))


def _checked(matches: Matches, record: Record, path: Path) -> Matches:
    if not _gives(matches, record):
        raise UserError(
            f"{path} does not give the AP in metrics.json: this file or the data has changed, or "
            "belongs to another run"
        )
    return matches
