from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from scalewise.lab.evaluation import ImageDetections
from scalewise.lab.evaluation.stored import read_detections, write_detections


def _found(image_id: int, count: int, seed: int) -> ImageDetections:
    draw = np.random.default_rng(seed)
    return ImageDetections(
        image_id=image_id,
        boxes=draw.random((count, 4)).astype(np.float32),
        scores=draw.random(count).astype(np.float32),
        labels=draw.integers(0, 80, count),
        levels=draw.integers(0, 5, count),
    )


def test_detections_survive_the_file_image_by_image(tmp_path: Path) -> None:
    found = [_found(7, 3, 0), _found(3, 0, 1), _found(5, 2, 2), _found(2**40, 1, 3)]
    path = tmp_path / "detections.parquet"
    write_detections(path, found)
    read = read_detections(path)
    assert [image.image_id for image in read] == [5, 7, 2**40]  # 3 has no detections
    by_id = {image.image_id: image for image in found}
    for image in read:
        for name in ("boxes", "scores", "labels", "levels"):
            one, other = getattr(image, name), getattr(by_id[image.image_id], name)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_no_detections_at_all(tmp_path: Path) -> None:
    for found in ([], [_found(1, 0, 0)]):
        write_detections(tmp_path / "detections.parquet", found)
        assert read_detections(tmp_path / "detections.parquet") == []
        assert pq.read_table(tmp_path / "detections.parquet").num_rows == 0
