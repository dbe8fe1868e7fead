"""What an exported file says about itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalewise.errors import UserError

PIXELS = (
    "images: uint8 [batch, 3, side, side], RGB 0..255, the image in the top left corner; "
    "sizes: int64 [batch, 2], (height, width) of each image, the rest is padding of any colour"
)
DECODED = (
    "boxes: float32 [batch, N, 4], (x1, y1, x2, y2) in pixels of `images`; "
    "scores: float32 [batch, N, classes], 0 to 1; before non-maximum suppression"
)
SUPPRESSED = (
    "boxes: float32 [batch, K, 4], (x1, y1, x2, y2) in pixels of `images`; scores: float32 "
    "[batch, K]; labels: int64 [batch, K]; levels: int64 [batch, K]; counts: int64 [batch], so "
    "many of the K rows are detections, the best first, the others are 0"
)


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """The metadata of an exported detector, each value as JSON under its name.

    Attributes:
        scalewise: Version that wrote it.
        detector: "atss", "fcos" or "retinanet".
        classes: Names of the classes, in the order of the labels.
        size: Pixels that the longer side of an image is resized to.
        side: Height and width of `images`: `size` rounded up to a multiple of 32.
        strides: Of the anchors' levels, finest first, in pixels.
        anchors: Number of anchors of each level.
        nms: Non-maximum suppression is part of the file.
        score_threshold: Detections must score above it.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        candidates: Most boxes per level that enter suppression.
        max_detections: Most detections per image.
        opset: Of ONNX; None for `torch.export`.
        run: Name of the run folder.
        checkpoint: "best" or "last".
        epoch: Of the checkpoint, from 1; None where it does not say.
        inputs: What goes in, in words.
        outputs: What comes out, in words.
    """

    scalewise: str
    detector: str
    classes: list[str]
    size: int
    side: int
    strides: list[int]
    anchors: list[int]
    nms: bool
    score_threshold: float
    nms_iou: float
    candidates: int
    max_detections: int
    opset: int | None
    run: str
    checkpoint: str
    epoch: int | None
    inputs: str
    outputs: str


def to_metadata(facts: ExportFacts) -> dict[str, str]:
    """The facts as strings by name."""
    return {name: json.dumps(value) for name, value in dataclasses.asdict(facts).items()}


def from_metadata(found: Mapping[str, str], source: object) -> ExportFacts:
    """The facts that a file holds.

    Args:
        found: What `to_metadata` gave, perhaps among other entries.
        source: The file, for messages.

    Raises:
        UserError: they are missing or damaged.
    """
    names = [field.name for field in dataclasses.fields(ExportFacts)]
    lacking = [name for name in names if name not in found]
    if lacking:
        raise UserError(
            f"{source} was not written by `scalewise export`: its metadata lack "
            f"{', '.join(lacking[:3])}; name a run folder or a file that it wrote"
        )
    try:
        values: dict[str, Any] = {name: json.loads(found[name]) for name in names}
        facts = ExportFacts(**values)
        sound = (
            all(isinstance(name, str) for name in facts.classes)
            and len(facts.strides) == len(facts.anchors)
            and 1 <= facts.size <= facts.side
        )
    except (ValueError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise UserError(f"{source} is damaged: its metadata are not what was written; export again")
    return facts
