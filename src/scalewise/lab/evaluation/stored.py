"""Detections on disk, kept so that later analyses need not run the detector again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from scalewise.lab.evaluation.detections import ImageDetections
from scalewise.lab.parquet import DamagedFile, read_table, write_table

_EDGES = ("x1", "y1", "x2", "y2")


def write_detections(path: Path, found: list[ImageDetections]) -> None:
    """Write one row for each detection.

    Columns: image_id int64; x1, y1, x2, y2 float32, pixels of the original image; score float32;
    label int16; level int8. An image without detections has no row.
    """
    boxes = _joined([image.boxes for image in found], (0, 4))  # [k, 4]
    columns = {
        "image_id": np.repeat(
            np.array([image.image_id for image in found], np.int64),
            [len(image.scores) for image in found],
        ),
        **{edge: boxes[:, i].astype(np.float32) for i, edge in enumerate(_EDGES)},
        "score": _joined([image.scores for image in found], (0,)).astype(np.float32),
        "label": _joined([image.labels for image in found], (0,)).astype(np.int16),
        "level": _joined([image.levels for image in found], (0,)).astype(np.int8),
    }
    write_table(path, pa.table(columns))


def read_detections(path: Path) -> list[ImageDetections]:
    """Read what `write_detections` wrote, images in ascending order of their id.

    Raises:
        DamagedFile: the file is damaged, or does not hold detections.
    """
    table = read_table(path)
    lacking = {"image_id", *_EDGES, "score", "label", "level"} - set(table.column_names)
    if lacking:
        raise DamagedFile(f"{path} holds no detections: no column {', '.join(sorted(lacking))}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    order = np.argsort(columns["image_id"], kind="stable")
    ids, starts = np.unique(columns["image_id"][order], return_index=True)
    boxes = np.stack([columns[edge] for edge in _EDGES], axis=1)
    return [
        ImageDetections(
            image_id=int(image_id),
            boxes=boxes[rows],
            scores=columns["score"][rows],
            labels=columns["label"][rows].astype(np.int64),
            levels=columns["level"][rows].astype(np.int64),
        )
        for image_id, rows in zip(ids, np.split(order, starts[1:]), strict=False)
    ]


def _joined(parts: list[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty, np.float32)
