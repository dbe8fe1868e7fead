from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scalewise.data import DetectionDataset, make_loader, open_split
from scalewise.lab.detectors.batch import Batch, Detections
from scalewise.lab.evaluation import coco_metrics, to_original


def _loaded(folder: Path) -> tuple[list[Batch], list[tuple[int, int]]]:
    """Write and load images of odd sizes with objects in two corners; also return the sizes."""
    shapes = [(333, 217), (64, 500), (97, 97)]
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (width, height) in enumerate(shapes, start=1):
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
        images.append(
            {"id": number * 10, "file_name": f"{number}.png", "width": width, "height": height}
        )
        for box in ([0, 0, 40, 50], [width - 40.5, height - 50.25, 40.5, 50.25]):
            annotations.append(
                {"id": len(annotations), "image_id": number * 10, "category_id": 8, "bbox": box}
            )
    table = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 8, "name": "x"}],
    }
    (folder / "train.json").write_text(json.dumps(table))
    dataset = DetectionDataset(open_split(f"coco:{folder}"), 100, augment=False)
    return list(make_loader(dataset, 2, shuffle=False)), shapes


def _echo(batch: Batch) -> Detections:
    """The objects of the batch as detections, with every edge moved outwards by 30 pixels."""
    out = torch.tensor([-30.0, -30.0, 30.0, 30.0])
    return Detections(
        boxes=batch.boxes + out,
        scores=batch.valid.float(),
        labels=batch.labels,
        levels=batch.labels + 2,
        valid=batch.valid,
    )


def test_the_objects_come_back_where_they_were(tmp_path: Path) -> None:
    batches, _ = _loaded(tmp_path)
    split = open_split(f"coco:{tmp_path}")
    back = [
        entry
        for batch in batches
        for entry in to_original(_echo(batch)._replace(boxes=batch.boxes), batch)
    ]
    for entry, record in zip(back, split.records, strict=True):
        assert entry.image_id == record.image_id
        np.testing.assert_allclose(entry.boxes, record.boxes, atol=1e-3)
        assert entry.boxes.dtype == entry.scores.dtype == np.float32
        assert entry.labels.dtype == entry.levels.dtype == np.int64
        assert entry.levels.tolist() == [2, 2]
    assert coco_metrics(split, back)["AP"] == 1


def test_boxes_are_clipped_to_the_original_image(tmp_path: Path) -> None:
    batches, shapes = _loaded(tmp_path)
    found = [entry for batch in batches for entry in to_original(_echo(batch), batch)]
    for entry, (width, height) in zip(found, shapes, strict=True):
        assert entry.boxes[:, :2].min() == 0
        assert entry.boxes[1, 2:].tolist() == [width, height]


def test_padding_rows_are_left_out(tmp_path: Path) -> None:
    batches, _ = _loaded(tmp_path)
    batch = batches[0]
    valid = torch.tensor([[False, False], [True, False]])
    first, second = to_original(_echo(batch)._replace(valid=valid), batch)
    assert first.boxes.shape == (0, 4)
    assert second.boxes.shape == (1, 4)


def test_large_image_ids_and_exact_scores_survive_the_packing(tmp_path: Path) -> None:
    batches, _ = _loaded(tmp_path)
    batch = batches[0]._replace(image_ids=torch.tensor([2**40 + 3, -1]))
    scores = torch.tensor([[0.1, 1.0 / 3], [1.0, 1e-30]])
    found = to_original(_echo(batch)._replace(scores=scores), batch)
    assert [entry.image_id for entry in found] == [2**40 + 3, -1]
    assert [entry.scores.tolist() for entry in found] == scores.tolist()


def test_nothing_found_in_a_whole_batch(tmp_path: Path) -> None:
    batches, _ = _loaded(tmp_path)
    none = Detections(*(part[:, :0] for part in _echo(batches[0])))
    assert [entry.boxes.shape for entry in to_original(none, batches[0])] == [(0, 4), (0, 4)]
