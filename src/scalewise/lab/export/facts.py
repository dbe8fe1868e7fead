"""The metadata of an exported file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalewise.errors import UserError

PIXELS = (
    "images: uint8 [batch, 3, side, side], RGB 0..255, the image in the top left corner; "
    "sizes: int64 [batch, 2], (height, width) of each image; the rest is padding of any colour"
)
DECODED = (
    "boxes: float32 [batch, N, 4], (x1, y1, x2, y2) in pixels of `images`; "
    "scores: float32 [batch, N, classes], 0 to 1; before non-maximum suppression"
)
SUPPRESSED = (
    "boxes: float32 [batch, K, 4], (x1, y1, x2, y2) in pixels of `images`; scores: float32 "
    "[batch, K]; labels: int64 [batch, K]; levels: int64 [batch, K]; counts: int64 [batch], number "
    "of detections: these rows come first, the best first, and the other rows are 0"
)


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """The metadata of an exported detector; the file holds each value as JSON under its name.

    Attributes:
        scalewise: Version of scalewise that wrote the file.
        detector: "atss", "fcos" or "retinanet".
        classes: Names of the classes, in the order of the labels.
        size: Pixels that the longer side of an image is resized to.
        side: Height and width of `images`: `size` rounded up to a multiple of 32.
        strides: Strides of the levels in pixels, finest first.
        anchors: Number of anchors of each level.
        nms: Whether non-maximum suppression is part of the file.
        score_threshold: Only detections with a score above it are kept.
        nms_iou: Overlap above which the weaker of two boxes of a class is dropped.
        candidates: Largest number of boxes per level and image that enter suppression.
        max_detections: Largest number of detections per image.
        opset: Version of the ONNX operators; None for `torch.export`.
        run: Name of the run folder.
        checkpoint: "best" or "last".
        epoch: Epoch of the checkpoint, from 1; None if the checkpoint does not say.
        inputs: The inputs of the file, in words.
        outputs: The outputs of the file, in words.
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
    """Turn the facts into JSON strings by name."""
    return {name: json.dumps(value) for name, value in dataclasses.asdict(facts).items()}


def from_metadata(found: Mapping[str, str], source: object) -> ExportFacts:
    """Read the facts from the metadata of a file.

    Args:
        found: What `to_metadata` returned; other entries are ignored.
        source: The file, for messages.

    Raises:
        UserError: a fact is missing or damaged.
    """
    names = [field.name for field in dataclasses.fields(ExportFacts)]
    lacking = [name for name in names if name not in found]
    if lacking:
        raise UserError(
            f"{source} was not written by `scalewise export`: its metadata has no "
            f"{', '.join(lacking[:3])}; name a run folder, or a file that `scalewise export` wrote"
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
        raise UserError(f"{source} is damaged: its metadata has wrong values; export again")
    return facts
