"""Checks that an exported file computes the same as its run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalewise.errors import UserError
from scalewise.lab.data.dataset import DetectionDataset
from scalewise.lab.data.loader import Collate
from scalewise.lab.detectors.batch import Batch, Detections
from scalewise.lab.detectors.decoding import class_scores, clip
from scalewise.lab.detectors.detector import DenseDetector
from scalewise.lab.export.exported import ExportedDetector
from scalewise.lab.inference.trained import TrainedRun
from scalewise.lab.training.building import open_splits

TOLERANCE = 1e-4  # of scores, and of boxes as a fraction of the images' side
_BATCHES = (1, 3)  # images in each batch that is compared


@dataclass(frozen=True)
class Agreement:
    """The largest differences between an exported file and its run.

    Attributes:
        boxes: Largest difference of a coordinate, as a fraction of the images' side.
        scores: Largest difference of a score.
        compared: Number of boxes, or of pairs of detections after suppression, that were compared.
        lone: Number of detections that only one of the two found.
    """

    boxes: float
    scores: float
    compared: int
    lone: int = 0

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerance; False if one is NaN."""
        return self.boxes <= TOLERANCE and self.scores <= TOLERANCE and not self.lone


def check_images(run: TrainedRun, size: int) -> tuple[list[Batch], str]:
    """Make a batch of 1 and a batch of 3 images for the comparison, and describe them in words.

    Args:
        run: The run. Its validation images are used; if they cannot be read, random pixels.
        size: Longer side of the images in pixels.
    """
    collate = Collate(size)
    need = sum(_BATCHES)
    try:
        split = open_splits(run.config)[1]
        dataset = DetectionDataset(split, size, augment=False)
        items = [dataset[i % len(dataset)] for i in range(need)]
    except (UserError, OSError) as error:
        side = -(-size // 32) * 32
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(
            0, 256, (need, 3, side, side), dtype=torch.uint8, generator=generator
        )
        batches = [_raw(pixels[:1], size), _raw(pixels[1:], size)]
        return batches, f"{need} images of random pixels (validation images: {error})"
    count = min(need, len(dataset))
    batches = [collate(items[: _BATCHES[0]]), collate(items[_BATCHES[0] :])]
    return batches, f"{count} images of {split.name}"


def _raw(images: Tensor, size: int) -> Batch:
    count = len(images)
    return Batch(
        images=images,
        boxes=torch.zeros(count, 0, 4),
        labels=torch.zeros(count, 0, dtype=torch.int64),
        valid=torch.zeros(count, 0, dtype=torch.bool),
        sizes=torch.full((count, 2), size),
        scales=torch.ones(count, 2),
        image_ids=torch.arange(count),
    )


@torch.inference_mode()
def compare_outputs(
    detector: DenseDetector, exported: ExportedDetector, batches: list[Batch]
) -> Agreement:
    """Measure the largest differences on batches; the detector computes in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    compare = _suppressed if exported.facts.nms else _decoded
    try:
        parts = [compare(detector, exported, batch) for batch in batches]
    finally:
        torch.set_float32_matmul_precision(before)
    return Agreement(
        float(torch.tensor([part.boxes for part in parts]).max()),  # NaN if one of them is NaN
        float(torch.tensor([part.scores for part in parts]).max()),
        sum(part.compared for part in parts),
        sum(part.lone for part in parts),
    )


def _decoded(detector: DenseDetector, exported: ExportedDetector, batch: Batch) -> Agreement:
    images, sizes = _moved(detector, batch)
    predictions, grid = detector.predict(images, sizes)
    boxes = clip(detector.method.decode(predictions.deltas, grid), sizes).cpu()
    scores = class_scores(predictions).cpu()
    own_boxes, own_scores = exported.compute(batch.images, batch.sizes)
    if own_boxes.shape != boxes.shape or own_scores.shape != scores.shape:
        return Agreement(float("inf"), float("inf"), 0)
    return Agreement(
        _worst(own_boxes - boxes) / exported.facts.side,
        _worst(own_scores - scores),
        boxes.shape[0] * boxes.shape[1],
    )


def _suppressed(detector: DenseDetector, exported: ExportedDetector, batch: Batch) -> Agreement:
    """Compare detections in pairs: rounding may swap two with nearly the same score."""
    images, sizes = _moved(detector, batch)
    run = Detections(
        *(part.cpu() for part in detector.detect(batch._replace(images=images, sizes=sizes)))
    )
    own = exported.detect(batch)
    facts = exported.facts
    boxes = scores = 0.0
    compared = lone = 0
    for i in range(len(images)):
        a, b = run.valid[i], own.valid[i]
        apart = (run.boxes[i][a][:, None] - own.boxes[i][b][None]).abs().amax(-1) / facts.side
        off = (run.scores[i][a][:, None] - own.scores[i][b][None]).abs()
        alike = (run.labels[i][a][:, None] == own.labels[i][b][None]) & (
            run.levels[i][a][:, None] == own.levels[i][b][None]
        )
        cost = torch.where(alike, torch.maximum(apart, off), torch.inf)
        pairs = _pairs(cost)
        compared += len(pairs)
        for row, column in pairs:
            boxes = max(boxes, float(apart[row, column]))
            scores = max(scores, float(off[row, column]))
        left = [run.scores[i][a][r] for r in range(len(cost)) if r not in {p[0] for p in pairs}]
        left += [
            own.scores[i][b][c] for c in range(cost.shape[1]) if c not in {p[1] for p in pairs}
        ]
        weakest = [facts.score_threshold]
        weakest += [float(s[v].min()) for s, v in ((run.scores[i], a), (own.scores[i], b))
                    if int(v.sum()) == facts.max_detections]  # fmt: skip
        # of two nearly equal scores at the limit, rounding decides which one is kept
        lone += sum(not any(abs(float(s) - w) <= TOLERANCE for w in weakest) for s in left)
    return Agreement(boxes, scores, compared, lone)


def _pairs(cost: Tensor) -> list[tuple[int, int]]:
    """Pair rows and columns of a cost [n, m] greedily, where the cost is within the tolerance."""
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for row in range(cost.shape[0]):
        for column in cost[row].argsort().tolist():
            if not cost[row, column] <= TOLERANCE:
                break
            if column not in taken:
                taken.add(column)
                pairs.append((row, column))
                break
    return pairs


def _moved(detector: DenseDetector, batch: Batch) -> tuple[Tensor, Tensor]:
    device = detector.positives.device
    return batch.images.to(device), batch.sizes.to(device)


def _worst(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
